// The view of one account: everything on one time axis.

// The order groups of an account that are on the page, with the states and kinds that they name.
async function unpackGroups(account) {
  if (account.list) return;
  const batches = await unpack(account.timelines);
  account.states = batches.flatMap((batch) => batch.states);
  account.kinds = batches.flatMap((batch) => batch.kinds);
  account.list = batches.flatMap((batch) => batch.groups).map((list) => groupOf(account, list));
}

function note(text) {
  return element("p", { className: "note" }, text);
}

function coverageNotes(strip, share, verb) {
  const missed = Object.values(strip.missed).reduce((sum, each) => sum + each, 0);
  const gaps = strip.gaps ? `${counted(strip.gaps, "gap")}, ${duration(missed)}` : "no gap";
  return [note(`${percent(share)} ${verb}; ${gaps}`)];
}

function coverageRows(account) {
  const rows = [
    timeRow("Polls", coverageNotes(account.by_polls, account.observed, "observed"), coverageStrip("Coverage by polls; its gaps are listed below", account.by_polls, 30, "observed")),
    account.by_stream
      ? timeRow("Stream", coverageNotes(account.by_stream, account.heard, "heard"), coverageStrip("Coverage by the stream of events; its gaps are listed below", account.by_stream, 30, "heard"))
      : timeRow("Stream", [note("never listened to")], element("div")),
  ];
  const causes = [...account.by_polls.segments, ...(account.by_stream?.segments || [])].map((each) => each[2]);
  return [...rows, legend([[swatch("covered"), "covered"], ...kindsOf(causes).map((kind) => [swatch(kind), KINDS[kind]])])];
}

function partText(part) {
  const start = data.grid.start + part * data.grid.width;
  return `${instant(start)} to ${instant(start + data.grid.width)}`;
}

// One number for each part of the span, from those that have any.
function byPart(entries, column) {
  const numbers = Array(data.grid.parts).fill(0);
  for (const entry of entries) numbers[entry[0]] = entry[column];
  return numbers;
}

function triggersRow(account) {
  const listed = account.list.flatMap((group) => group.triggers.map(([at, , told]) => [at, told, group]));
  const inSpan = listed.filter(([at]) => at >= data.since);
  const told = byPart(account.triggers_over_time, 1);
  const shown = byPart(account.triggers_over_time, 2);
  const height = 64;
  const bars = stackedBars("Triggers over time; listed below", height, {
    ...data.grid,
    stacks: new Map([["triggered", told], ["flag", shown]]),
    tell: (part) => [`${counted(told[part], "trigger")} told by the exchange`, `${count(shown[part])} shown by the flag alone`],
  });
  // From near, each at its instant, if the page has them all.
  const near = () => (inSpan.length === account.triggers && view.to - view.from < 30 * data.grid.width ? inSpan : null);
  const ofParts = redraws.get(bars);
  const tellParts = tells.get(bars);
  redraws.set(bars, () => {
    if (!near()) return ofParts();
    const marks = near().filter(([at]) => at >= view.from && at <= view.to).slice(0, 2000);
    bars.replaceChildren(...gridLines(height), ...marks.map(([at, known]) => markShape("triggered", { x: `${shareOf(at)}%`, y: height / 2, opacity: known ? 1 : 0.6 })));
  });
  tells.set(bars, (seconds, reach) => {
    if (!near()) return tellParts(seconds);
    const found = near().filter(([at]) => Math.abs(at - seconds) <= reach).slice(0, 8);
    return found.length ? found.map(([at, known, group]) => `${exact(at)} ${visible(group.id)}, ${evidenceText(known)}`) : null;
  });
  redraws.get(bars)();
  return timeRow("Triggers", [note(`${count(account.triggers)} in this time`), legend([[swatch("triggered"), "told by the exchange"], [swatch("flag"), "shown by the flag alone"]])], bars);
}

function groupsRow(account) {
  const { start, width } = data.grid;
  const runs = [];
  account.standing.forEach((standing, part) => {
    const last = runs.at(-1);
    if (last && last.standing === standing && last.flagged === account.flagged_over_time[part]) last.to = start + (part + 1) * width;
    else runs.push({ from: start + part * width, to: start + (part + 1) * width, standing, flagged: account.flagged_over_time[part] });
  });
  const height = 90;
  const draw = () => {
    const inView = runs.filter((run) => run.to > view.from && run.from < view.to && run.standing !== null);
    const most = inView.reduce((sum, run) => Math.max(sum, run.standing), 1);
    const high = (number) => ((height - 14) * number) / most;
    const until = Math.min(data.until, view.to);
    return [
      ...inView.flatMap((run) => [
        ...bar(run.from, Math.min(run.to, until), height - high(run.standing), high(run.standing), "active least"),
        ...bar(run.from, Math.min(run.to, until), height - high(run.flagged), high(run.flagged), "triggered"),
      ]),
      ...scaleLine(count(most)),
    ];
  };
  const tell = (seconds) => {
    const run = runs.find(({ from, to }) => from <= seconds && seconds < to);
    return run && run.standing !== null ? [`${counted(run.standing, "group")}`, `${count(run.flagged)} of them probably triggered`] : ["not observed"];
  };
  return timeRow("Order groups", [note(`${count(account.groups)} at the last observation`), legend([[swatch("active"), "active"], [swatch("triggered"), "probably triggered"]])], picture("Order groups over time; as a table below", height, draw, tell));
}

function changesRow(account) {
  const looks = ["appeared", "changed", "disappeared"];
  const stacks = new Map(looks.map((look, number) => [look, byPart(account.changes_over_time, number + 1)]));
  const tell = (part) => looks.map((look) => `${count(stacks.get(look)[part])} ${look}`);
  return timeRow("Changes", [note(`${count(account.changes)} in this time, seen by polls`), legend(looks.map((look) => [swatch(look), look]))], stackedBars("Changes of order groups over time; as a table below", 64, { ...data.grid, stacks, tell }));
}

function toolbar() {
  const button = (label, text, action) => element("button", { type: "button", title: label, "aria-label": label, onclick: action }, text);
  const field = (label) => {
    const input = element("input", { type: "text", size: 23, spellcheck: false, autocomplete: "off" });
    input.addEventListener("change", () => {
      const typed = [from, to].map(({ value }) => Date.parse(`${value.trim().replace(" ", "T")}Z`) / 1000);
      if (typed[0] < typed[1]) setView(...typed);
      else redraw();
    });
    return [element("label", {}, `${label} `, input), input];
  };
  const [fromLabel, from] = field("From");
  const [toLabel, to] = field("to");
  const scale = svg("svg", { class: "axis", "aria-hidden": "true", width: "100%", height: 20 });
  const redraw = () => {
    [from.value, to.value] = [exact(view.from), exact(view.to)];
    scale.replaceChildren(...axis());
  };
  redraws.set(scale, redraw);
  const bar = element(
    "div",
    { className: "toolbar", role: "toolbar", "aria-label": "Time shown" },
    button("Show less time, larger", "+", () => zoom(0.5)),
    button("Show more time, smaller", "−", () => zoom(2)),
    button("Earlier", "←", () => zoom(1, -0.5)),
    button("Later", "→", () => zoom(1, 0.5)),
    button("All: show the whole time", "All", () => setView(data.since, data.until)),
    fromLabel,
    toLabel,
    element("span", { className: "note" }, "UTC"),
  );
  return element("div", { className: "sticky" }, bar, timeRow("", [], scale));
}

async function accountView(account) {
  await unpackGroups(account);
  const list = groupList(account);
  const others = element("select", { onchange: () => go({ account: others.value, group: "" }, { step: true }) });
  others.append(...data.accounts.map((each) => element("option", { value: each.name, selected: each === account }, visible(each.name))));
  const section = element(
    "section",
    { className: "account" },
    element("nav", {}, element("a", { href: "#" }, "← All accounts"), element("label", {}, "Account ", others)),
    element("h1", { tabIndex: -1 }, foreign(account.name)),
    element("p", { className: `state ${account.state}` }, account.state === "recording" ? `recording: ${account.said}` : account.said),
    toolbar(),
    ...coverageRows(account),
    triggersRow(account),
    groupsRow(account),
    changesRow(account),
    note("Drag over a picture to zoom in; double-click to see the whole time. What begins and ends between two polls is not in Order groups and Changes; the stream tells of it."),
    list.section,
    ...figures(account),
  );
  followPointer(section);
  return { section, update: list.update, title: account.name };
}
