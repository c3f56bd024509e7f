// What stands below, folded: the numbers as tables, failures, latency, clock, versions.

function gapsTable(title, strip) {
  const rows = strip.longest.map(([seconds, start, end, cause]) => [exact(start), end >= data.until ? "still open" : exact(end), duration(seconds), causeText(cause)]);
  const caption = strip.gaps > rows.length ? `${title}: the longest ${rows.length} of ${count(strip.gaps)}` : `${title}: all, longest first`;
  return rows.length ? [element("h2", {}, caption), table(caption, ["From", "To", "Lasted", "Because"], rows)] : [note(`${title}: none.`)];
}

function triggerTables(account) {
  const groups = account.list.filter((group) => group.count).sort((a, b) => b.count - a.count);
  const single = groups.flatMap((group) => group.triggers.map(([at, lasting, told]) => [at, lasting, told, group])).sort((a, b) => b[0] - a[0]);
  const until = (at, lasting) => (lasting < 0 ? "still" : exact(at + lasting / 1000));
  return [
    table("Triggers by group, most first", ["Group", "Triggers", "Latest"], groups.slice(0, LISTED).map((group) => [foreign(group.id), count(group.count), group.triggers.length ? exact(group.triggers.at(-1)[0]) : ""])),
    table("Triggers one by one, latest first", ["Triggered", "Until", "Group", "Known because"], single.slice(0, LISTED).map(([at, lasting, told, group]) => [exact(at), until(at, lasting), foreign(group.id), evidenceText(told)])),
    ...(single.length > LISTED ? [note(`The latest ${LISTED} of ${count(single.length)}.`)] : []),
  ];
}

function numbersTable(account) {
  const shown = byPart(account.triggers_over_time, 2);
  const triggers = byPart(account.triggers_over_time, 1).map((told, part) => told + shown[part]);
  const [appeared, changed, disappeared] = [1, 2, 3].map((column) => byPart(account.changes_over_time, column));
  const rows = account.standing.flatMap((standing, part) => {
    const same = part && standing === account.standing[part - 1] && account.flagged_over_time[part] === account.flagged_over_time[part - 1];
    const numbers = [triggers[part], appeared[part], changed[part], disappeared[part]];
    if (same && !numbers.some(Boolean)) return [];
    const state = standing === null ? ["not observed", ""] : [count(standing), count(account.flagged_over_time[part])];
    return [[partText(part), ...state, ...numbers.map(count)]];
  });
  return table(`Per ${duration(data.grid.width)}, where anything differs from before`, ["Time", "Groups", "Probably triggered", "Triggers", "Appeared", "Changed", "Disappeared"], rows);
}

function failureFigures(account) {
  const width = account.failed_width;
  const start = Math.floor(data.grid.start / width) * width;
  const parts = Math.floor((data.until - start) / width) + 1;
  const kinds = kindsOf(account.failed.map(([, outcome]) => outcome));
  const stacks = new Map(kinds.map((kind) => [kind, Array(parts).fill(0)]));
  const told = new Map();
  for (const [from, outcome, number] of account.failed) {
    const part = Math.min(Math.round((from - start) / width), parts - 1);
    stacks.get(KIND_OF.get(outcome) || "lost")[part] += number;
    told.set(part, [...(told.get(part) || []), `${count(number)}: ${causeText(outcome)}`]);
  }
  const rows = account.messages.map(([outcome, status, text, number, last]) => [causeText(outcome), status === null ? "none" : String(status), foreign(text), count(number), instant(last)]);
  return [
    timeRow("Failed polls", [note(`per ${duration(width)}`), legend(kinds.map((kind) => [swatch(kind), KINDS[kind]]))], stackedBars("Failed polls over time", 64, { start, width, stacks, tell: (part) => told.get(part) })),
    table("What failures said, the most frequent first", ["Why", "HTTP status", "What was said", "Polls", "Last"], rows),
  ];
}

// From the least to the greatest of each part, with the mean; the height is what they reach.
function rangePicture(title, notes, parts, names) {
  const { start, width } = data.grid;
  const height = 80;
  const draw = () => {
    const shown = parts.map((values, part) => [values, start + part * width]).filter(([values, from]) => values && from < view.to && from + width > view.from);
    const top = shown.reduce((most, [values]) => Math.max(most, ...values), 1);
    const bottom = shown.reduce((least, [values]) => Math.min(least, ...values), 0);
    const y = (value) => 13 + ((height - 14) * (top - value)) / (top - bottom);
    return [
      ...shown.flatMap(([values, from]) => [
        ...bar(from, from + width, y(values.at(-1)), Math.max(y(values[0]) - y(values.at(-1)), 1), "range least"),
        ...bar(from, from + width, y(values[names.indexOf("mean")]) - 1, 2, "mean least"),
      ]),
      ...bar(data.since, data.until, y(0), 1, "grid"),
      ...scaleLine(`${count(Math.round(top))} ms`),
    ];
  };
  const tell = (seconds) => {
    const part = Math.floor((seconds - start) / width);
    return parts[part] ? [partText(part), ...names.map((name, number) => `${name} ${count(parts[part][number])} ms`)] : null;
  };
  const rows = parts.flatMap((values, part) => (values ? [[partText(part), ...values.map(count)]] : []));
  return [timeRow(title, notes, picture(`${title}; as a table below`, height, draw, tell)), table(title, ["Time", ...names.map((name) => `${name}, ms`)], rows)];
}

function figures(account) {
  const found = [folded("Gaps and their causes", () => [...gapsTable("Gaps between polls", account.by_polls), ...(account.by_stream ? gapsTable("Gaps in the stream", account.by_stream) : [])])];
  if (account.triggers) found.push(folded("Triggers, by group and one by one", () => triggerTables(account)));
  found.push(folded("Groups, triggers and changes as numbers", () => numbersTable(account)));
  if (account.kept_from !== null) found.push(note(`Single polls are kept from ${instant(account.kept_from)} on only: before, failures, latency and clock are not known. Coverage and order groups are.`));
  if (account.failed.length) found.push(folded(`Failed polls: ${count(account.failures)} of ${count(account.polls)}`, () => failureFigures(account)));
  if (account.taken.some(Boolean)) {
    found.push(folded("Latency of polls", () => rangePicture("Latency", [note("successful polls, from the first request to the last byte")], account.taken, ["mean", "slowest"])));
  }
  if (account.skew.some(Boolean)) {
    found.push(folded("This machine's clock against the exchange's", () => rangePicture("Clock", [note("above zero: this machine is ahead. Known to about half a second; the exchange refuses keys from 30 s on")], account.skew, ["least", "mean", "greatest"])));
  }
  if (account.versions.length) {
    const rows = account.versions.map(([version, first, last, number]) => [foreign(version), instant(first), instant(last), count(number)]);
    found.push(folded("Versions of the exporter", () => table("Versions of the exporter", ["Version", "First poll", "Last poll", "Polls"], rows)));
  }
  return found;
}
