// Swim lanes: one line for each order group, with what was known of it over time.

const LANE_HEIGHT = 22;
const LANES_AT_ONCE = 20;
const STATES_IN_TABLE = 200;
const ABSENT = -1; // below it: as many states as it is below, not told one by one

function stateText(account, state) {
  if (state === ABSENT) return "absent";
  if (state < ABSENT) return `${count(ABSENT - state)} states, not told one by one here`;
  const [on, limit, index, extra] = account.states[state];
  return [
    `auto-cancel ${on ? "on" : "off"}`,
    limit === null ? "no limit sent" : `limit ${visible(limit)}`,
    ...(index === null ? [] : [`exchange index ${index}`]),
    ...(extra === null ? [] : [visible(extra)]),
  ].join(", ");
}

// A lane's states as [from, to, state]; the last lasts to the end.
function statesOf(account, [, , ...events]) {
  const found = [];
  for (let at = 0; at < events.length; at += 2) {
    const next = at + 2 < events.length ? data.since + events[at + 2] * account.tick : data.until;
    found.push([data.since + events[at] * account.tick, next, events[at + 1]]);
  }
  return found;
}

function laneRow(account, lane) {
  const [id, changes] = lane;
  const states = statesOf(account, lane);
  const paint = (pen, x, plot) => {
    pen.fillStyle = colour("--line");
    pen.fillRect(GUTTER, LANE_HEIGHT / 2, plot, 1);
    const fills = {};
    pen.font = "11px system-ui, sans-serif";
    for (const [from, to, state] of states) {
      if (state === ABSENT || to < view.from || from > view.to) continue;
      const look = state < ABSENT ? "busy" : account.states[state][0] ? "on" : "off";
      const left = Math.max(x(from), GUTTER);
      const width = Math.max(Math.min(x(to), GUTTER + plot) - left, 1.5);
      pen.fillStyle = fills[look] ||= fill(pen, look, true);
      pen.fillRect(left, 2, Math.max(width - 1, 1), LANE_HEIGHT - 4);
      if (state >= 0 && account.states[state][1] !== null) labelLane(pen, account.states[state][1], left, width, look);
    }
    for (const [start, end] of account.segments) {
      if (end < view.from || start > view.to) continue;
      pen.globalAlpha = 0.8;
      pen.fillStyle = fill(pen, "before", true);
      pen.fillRect(x(start), 0, Math.max(x(end) - x(start), 1), LANE_HEIGHT);
      pen.globalAlpha = 1;
    }
  };
  const tell = (seconds) => {
    const gap = gapAt(account, seconds);
    if (gap) return [gapText(gap)];
    const state = states.findLast(([from]) => from <= seconds);
    return [state ? stateText(account, state[2]) : "absent"];
  };
  const drawn = timeline(LANE_HEIGHT, `${of(account, `States of ${visible(id)} over time`)}; listed when opened`, paint, tell, false);
  const name = folded("", () => statesTable(account, id, states));
  name.className = "lane-name";
  const many = changes === 1 ? "1 change" : `${count(changes)} changes`;
  name.firstChild.append(foreign(id), element("span", { className: "note" }, ` ${many}`));
  return { row: element("li", {}, name, drawn.box), redraw: drawn.redraw };
}

// The limit, where there is room for it.
function labelLane(pen, limit, left, width, look) {
  const text = visible(limit);
  const needed = pen.measureText(text).width + 8;
  if (needed > width) return;
  if (look === "off") {
    pen.fillStyle = colour("--off");
    pen.fillRect(left + 1, 4, needed, LANE_HEIGHT - 8);
  }
  pen.fillStyle = colour(look === "off" ? "--on-off" : "--on-on");
  pen.fillText(text, left + 5, LANE_HEIGHT / 2 + 4);
}

function statesTable(account, id, states) {
  const rows = states.slice(0, STATES_IN_TABLE).map(([from, to, state], number) => [
    instant(from),
    number === states.length - 1 ? "" : instant(to),
    stateText(account, state),
  ]);
  const rest = states.length - rows.length;
  const caption = `States of ${visible(id)}${rest > 0 ? `; ${count(rest)} more are not listed` : ""}`;
  return table(account, caption, ["From", "To", "What was seen"], rows);
}

// What the search found, and where to look for what cannot be on this page.
function searched(account, wanted, shown, matching) {
  const left = account.groups - account.lanes.length;
  const place = left > 0 ? " on this page" : "";
  const said = matching
    ? [`${count(shown)} of ${count(matching)} order groups${wanted ? ` found${place}` : place}.`]
    : [`No order group${place} has this in its id.`];
  if (left > 0) {
    said.push(
      ` ${count(left)} more, those with the fewest changes, found no room on it. Any group's states, by its whole id: `,
      element("code", {}, `kalshi-exporter export history --account ${quoted(account.name)} --group ${wanted ? quoted(wanted) : "ID"}`),
    );
  }
  return said;
}

// As a shell takes it for one word.
function quoted(text) {
  const shown = visible(text);
  return /^[\w.-]+$/.test(shown) ? shown : `'${shown.replaceAll("'", "'\\''")}'`;
}

function lanesSection(account) {
  const list = element("ol", { className: "lanes" });
  const found = element("p", { className: "note", role: "status" });
  const more = element("button", { type: "button" });
  const search = element("input", { type: "search", autocomplete: "off", spellcheck: false, maxLength: 300 });
  let matching = account.lanes;
  let rows = [];
  const redraw = () => rows.forEach((row) => row.redraw());
  const show = () => {
    const added = matching.slice(rows.length, rows.length + LANES_AT_ONCE).map((lane) => laneRow(account, lane));
    rows.push(...added);
    list.append(...added.map((each) => each.row));
    added.forEach((each) => each.redraw());
    const rest = matching.length - rows.length;
    more.hidden = rest <= 0;
    more.textContent = `Show ${Math.min(rest, LANES_AT_ONCE)} more`;
    found.replaceChildren(...searched(account, search.value.trim(), rows.length, matching.length));
  };
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    matching = account.lanes.filter(
      ([id]) => id.toLowerCase().includes(wanted) || visible(id).toLowerCase().includes(wanted),
    );
    rows = [];
    list.replaceChildren();
    show();
  });
  more.addEventListener("click", show);
  view.changed.push(redraw);
  repaint.push(redraw);
  const section = element(
    "section",
    {},
    element("h3", {}, "Order groups, those with the most changes first"),
    element("p", { className: "note" }, "The number in a bar is the limit in contracts. Open a group to read its states."),
    legend([
      ["on", "auto-cancel on"],
      ["off", "auto-cancel off"],
      ["busy", "many states"],
      ["before", "not observed"],
    ]),
    element("label", { className: "search" }, "Find a group by its id ", search),
    found,
    list,
    more,
  );
  return { section, show };
}
