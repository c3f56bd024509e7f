// Shows what the address asks for: all accounts, or one.

const page = document.getElementById("report");
let shown = { account: undefined, update: () => {}, times: "" };

async function show() {
  const wanted = read();
  readView(wanted);
  const account = data.accounts.find((each) => each.name === wanted.account);
  if (!page.dataset.ready || account !== shown.account) {
    page.dataset.ready = "";
    redraws.clear();
    hideTip();
    const opening = { account, update: () => {}, times: "" };
    const first = shown.account === undefined && !shown.title;
    shown = opening;
    Object.assign(opening, account ? await accountView(account) : overview());
    if (shown !== opening) return; // another one was opened meanwhile
    page.replaceChildren(opening.section, element("footer", {}, note(`Made by kalshi-exporter ${data.version} at ${instant(data.made)} UTC.`)));
    document.title = `${visible(opening.title)} – order groups`;
    page.dataset.ready = "true";
    if (!first) page.querySelector("h1").focus();
    scrollTo(0, 0);
  }
  const times = `${view.from} ${view.to}`;
  if (times !== shown.times) {
    shown.times = times;
    hideTip();
    for (const redraw of redraws.values()) redraw();
  }
  shown.update(read());
}

async function start() {
  data.accounts = await unpack(data.packed);
  data.accounts.forEach((account, number) => {
    [account.all_groups, account.shown_groups, account.timelines] = data.timelines[number];
  });
  addEventListener("hashchange", show);
  show();
}

start();
