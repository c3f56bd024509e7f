// The first screen: whether everything is recording, and a table of accounts, worst first.

const SEARCHED_FROM = 12; // accounts, from which on one looks for a name

// Without the date if that is the page's own.
function shortInstant(seconds) {
  const text = instant(seconds);
  return text.slice(0, 10) === instant(data.made).slice(0, 10) ? text.slice(11) : text;
}

// The whole span in little: what is missing hangs from the top, as much as its share.
function smallStrip(account) {
  const one = ([cells, missing], top, height) => [
    svg("rect", { y: top, width: "100%", height, class: "covered" }),
    ...missing.map(([cell, share, cause], number) => {
      // One cell alone is too narrow for a pattern.
      const alone = missing[number - 1]?.[0] !== cell - 1 && missing[number + 1]?.[0] !== cell + 1;
      const look = `${KIND_OF.get(cause) || "lost"}${alone ? " plain" : ""}`;
      return svg("rect", { x: `${(100 * cell) / cells}%`, y: top, width: `${100 / cells + 0.1}%`, height: Math.max((height * share) / 100, 3), class: look });
    }),
  ];
  const heard = account.heard_cells ? one(account.heard_cells, 17, 9) : [];
  const label = `Coverage: ${percent(account.observed)} observed${account.heard === null ? "" : `, ${percent(account.heard)} heard`}`;
  return svg("svg", { class: "strip", role: "img", "aria-label": label, width: "100%", height: 26 }, ...one(account.cells, 0, account.heard_cells ? 15 : 26), ...heard);
}

// Of each column: its key, title, what it sorts by (nothing: as the page came), cell, whether it begins with the least.
const COLUMNS = [
  ["account", "Account", (each) => each.name, null, true],
  ["worst", "Coverage, worst first", (each) => data.accounts.indexOf(each), smallStrip, true],
  ["observed", "Observed", (each) => each.observed ?? -1, (each) => percent(each.observed), true],
  ["heard", "Heard", (each) => each.heard ?? -1, (each) => percent(each.heard), true],
  ["groups", "Groups now", (each) => each.groups ?? -1, (each) => count(each.groups)],
  ["triggers", "Triggers", (each) => each.triggers ?? -1, (each) => count(each.triggers)],
  ["changes", "Changes", (each) => each.changes ?? -1, (each) => count(each.changes)],
  ["failures", "Failed polls", (each) => each.failures, (each) => count(each.failures)],
  ["last", "Last observation", (each) => each.last ?? -1, (each) => (each.last === null ? "never" : shortInstant(each.last)), true],
];

function accountCell(account) {
  return element(
    "th",
    { scope: "row" },
    element("a", { href: addressOf({ account: account.name }) }, foreign(account.name)),
    element("span", { className: `state ${account.state}` }, account.said),
  );
}

function overview() {
  const rows = new Map(
    data.accounts.map((account) => [
      account,
      element("tr", {}, accountCell(account), ...COLUMNS.slice(1).map(([key, , , cell]) => element("td", { className: key }, cell(account)))),
    ]),
  );
  const heads = COLUMNS.map(([key, title, , , least]) => {
    const sort = () => go({ by: read().by === key || (!read().by && key === "worst") ? `-${key}` : key });
    return element("th", { scope: "col", className: key, title: least ? "" : "Most first" }, element("button", { type: "button", onclick: sort }, title));
  });
  const body = element("tbody", {}, ...rows.values());
  const search = element("input", { type: "search", autocomplete: "off", spellcheck: false, oninput: () => go({ find: search.value }) });
  const found = element("p", { className: "note", role: "status" });
  const update = ({ by = "worst", find = "" }) => {
    const key = by.replace("-", "");
    const [, , value, , least] = COLUMNS.find(([each]) => each === key) || COLUMNS[1];
    const way = (least ? 1 : -1) * (by.startsWith("-") ? -1 : 1);
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    const matching = data.accounts.filter((each) => visible(each.name).toLowerCase().includes(find.toLowerCase()));
    matching.sort((a, b) => way * compare(value(a), value(b)));
    body.replaceChildren(...matching.map((each) => rows.get(each)));
    heads.forEach((head, number) => {
      if (COLUMNS[number][0] === key) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    search.value = find;
    found.textContent = find ? `${count(matching.length)} of ${counted(data.accounts.length, "account")}` : "";
  };
  const left = data.count - data.accounts.length;
  const causes = data.accounts.flatMap((each) => [...each.cells[1], ...(each.heard_cells?.[1] || [])].map((cell) => cell[2]));
  const section = element(
    "section",
    {},
    element("p", { className: "kicker" }, `Order groups, ${instant(data.since)} to ${instant(data.until)} UTC`),
    element("h1", { className: data.well ? "well" : "wrong", tabIndex: -1 }, visible(data.verdict)),
    ...(data.accounts.length > SEARCHED_FROM ? [element("label", { className: "search" }, "Find an account ", search), found] : []),
    ...(data.accounts.length
      ? [
          element("div", { className: "scroll wide", tabIndex: 0, role: "region", "aria-label": "Accounts" },
            element("table", { className: "accounts" }, element("caption", {}, "Accounts"), element("thead", {}, element("tr", {}, ...heads)), body)),
          legend([[swatch("covered"), "covered: polls above, events below"], ...kindsOf(causes).map((kind) => [swatch(kind), KINDS[kind]])]),
        ]
      : []),
    ...(left > 0
      ? [element("p", {}, `${counted(left, "account")} did not fit on this page, those in the best state. Split the report with --account.`)]
      : []),
  );
  return { section, update, title: data.verdict };
}
