// Puts the page together: what matters in words, then one section for each account.

function summary(account, number) {
  const facts = account.facts.map(([name, value, mood]) =>
    element("div", { className: mood }, element("dt", {}, name), element("dd", {}, value)),
  );
  const said = account.sentences.map(([mood, text]) => element("li", { className: mood }, text));
  return element(
    "article",
    {},
    element("h2", {}, element("a", { href: `#account-${number}` }, foreign(account.name))),
    element("dl", { className: "facts" }, ...facts),
    element("ul", { className: "said" }, ...said),
  );
}

function coverageFigure(account) {
  const strip = coverageStrip(account);
  view.changed.push(strip.redraw);
  repaint.push(strip.redraw);
  const causes = Object.keys(data.causes).filter((name) => account.segments.some((each) => each[2] === name));
  const figure = element(
    "figure",
    { "aria-label": of(account, "When somebody looked") },
    element("figcaption", {}, element("h3", {}, "When somebody looked")),
    strip.box,
    legend([["observed", "observed"], ...causes.map((name) => [name, cause(name)])]),
  );
  if (account.longest.length) {
    const title = account.gaps > account.longest.length
      ? `The longest ${account.longest.length} of ${count(account.gaps)} gaps`
      : "All gaps, longest first";
    const rows = account.longest.map(([seconds, start, end, why]) => [
      instant(start),
      end >= data.until ? "still open" : instant(end),
      duration(seconds),
      cause(why),
    ]);
    figure.append(folded(title, () => table(account, title, ["From", "To", "Lasted", "Because"], rows)));
  }
  return { figure, make: strip.redraw };
}

function failures(account) {
  if (!account.failed.length) {
    const told = account.taken.some((part) => part) ? "No poll failed." : "No polls are kept of this time.";
    return [element("h3", {}, "Failed polls and why"), element("p", {}, told)];
  }
  const rows = account.messages.map(([why, status, text, number, last]) => [
    cause(why),
    status === null ? "none" : String(status),
    foreign(text),
    count(number),
    instant(last),
  ]);
  const title = "What failures said, the most frequent first";
  const columns = ["Why", "HTTP status", "What was said", "Polls", "Last"];
  return [folded(title, () => table(account, title, columns, rows))];
}

function versions(account) {
  if (!account.versions.length) return [];
  const rows = account.versions.map(([version, first, last, number]) => [
    foreign(version),
    instant(first),
    instant(last),
    count(number),
  ]);
  const note = account.versions.length > 1
    ? "A dashed upright line in the pictures marks where a version began."
    : "It was the same all the time.";
  return [
    element("h3", {}, "Versions of the exporter"),
    element("p", { className: "note" }, note),
    table(account, "Versions of the exporter", ["Version", "First poll", "Last poll", "Polls"], rows),
  ];
}

function accountSection(account, number) {
  const pictures = [coverageFigure(account), groupsChart(account)];
  if (account.changes.length) pictures.push(changesChart(account));
  const lanes = account.lanes.length ? lanesSection(account) : null;
  const later = [];
  if (account.failed.length) later.push(failuresChart(account));
  if (account.taken.some((part) => part)) later.push(latencyChart(account));
  if (account.skew.some((part) => part)) later.push(skewChart(account));
  const texts = failures(account);
  const section = element(
    "section",
    { className: "account", id: `account-${number}`, "aria-label": `Account ${visible(account.name)}` },
    element("h2", {}, "Account ", foreign(account.name)),
    ...pictures.map((each) => each.figure),
    lanes ? lanes.section : element("p", {}, "No order groups were seen."),
    ...(account.failed.length ? [later[0].figure, ...texts, ...later.slice(1).map((each) => each.figure)] : [...texts, ...later.map((each) => each.figure)]),
    ...versions(account),
  );
  // To be called once the section has its place, and with it a width.
  const draw = () => {
    [...pictures, ...later].forEach((each) => each.make());
    if (lanes) lanes.show();
  };
  return { section, draw };
}

// Sections that are made when somebody comes near: hundreds of accounts would take a minute.
const waiting = new Map();
const MADE_AT_ONCE = 8;

function place(account, number) {
  const name = `Account ${visible(account.name)}`;
  const made = element(
    "section",
    { className: "account waiting", id: `account-${number}`, "aria-label": name },
    element("h2", {}, "Account ", foreign(account.name)),
  );
  waiting.set(made, () => accountSection(account, number));
  return made;
}

function finish(found) {
  if (!waiting.has(found)) return;
  const { section, draw } = waiting.get(found)();
  waiting.delete(found);
  found.replaceWith(section);
  draw();
}

function finishWhenNear(places) {
  const near = new IntersectionObserver(
    (seen) => seen.filter((each) => each.isIntersecting).forEach(({ target }) => {
      near.unobserve(target);
      finish(target);
    }),
    { rootMargin: "800px" },
  );
  places.forEach((each) => near.observe(each));
}

function redrawAll() {
  for (const paint of repaint) paint();
}

function start() {
  const title = `Order groups, ${instant(data.since)} to ${instant(data.until)}`;
  document.title = title;
  const page = document.getElementById("report");
  const places = data.accounts.map(place);
  page.replaceChildren(
    element(
      "header",
      {},
      element("h1", {}, "Order groups"),
      element("p", {}, `${instant(data.since)} to ${instant(data.until)}. All times are UTC.`),
      element("p", { className: "note" },
        "A history made by polling: what began and ended between two looks is not in it. " +
        "Drag over a picture, or use the buttons, to see less time, larger; double-click to see all."),
    ),
    ...data.accounts.map(summary),
    ...(data.left_out
      ? [element("p", {}, `${count(data.left_out)} more accounts found no room on this page: make pages of some accounts each, with --account.`)]
      : []),
    ...(data.accounts.length ? [toolbar()] : [element("p", {}, "Nothing is recorded yet.")]),
    ...places,
    element("footer", {}, element("p", { className: "note" },
      `Made by kalshi-exporter ${data.version} at ${instant(data.made)}. Charts: uPlot 1.6.32, MIT licence.`)),
  );
  places.slice(0, MADE_AT_ONCE).forEach(finish);
  finishWhenNear(places.slice(MADE_AT_ONCE));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) redrawAll();
    width = innerWidth;
  });
  const printing = (begins) => () => {
    [...waiting.keys()].forEach(finish);
    document.documentElement.classList.toggle("printing", begins);
    redrawAll();
  };
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
}

start();
