// Pictures along time, all of the same time. Their parts are placed in percent, so that they fit
// every width, on screen and on paper, without being drawn again.

const redraws = new Map(); // of each picture that is on the page
const tells = new WeakMap(); // of a picture: what a place in it says

function shareOf(seconds) {
  return ((seconds - view.from) / (view.to - view.from)) * 100;
}

const LEAST = 0.12; // percent: however short something is, it can be seen

// A bar; nothing where it is out of view.
function bar(from, to, top, height, look) {
  if (to < view.from || from > view.to || height <= 0) return [];
  const left = Math.min(Math.max(shareOf(from), 0), 100 - LEAST);
  const width = Math.max(Math.min(shareOf(to), 100) - left, LEAST);
  return [svg("rect", { x: `${left.toFixed(3)}%`, width: `${width.toFixed(3)}%`, y: top, height, class: look })];
}

// `draw()` gives what is in it; `tell(seconds, near)` the lines of the tip, or null.
function picture(label, height, draw, tell) {
  const drawn = svg("svg", { class: "picture", role: "img", "aria-label": label, width: "100%", height });
  const redraw = () => drawn.replaceChildren(...gridLines(height), ...draw());
  redraws.set(drawn, redraw);
  tells.set(drawn, tell);
  redraw();
  return drawn;
}

function gridLines(height) {
  return axisTicks().found.map((at) => svg("rect", { class: "grid", x: `${shareOf(at).toFixed(3)}%`, width: 1, height }));
}

function axisTicks() {
  return ticks(view.from, view.to, innerWidth < 700 ? 4 : 9);
}

function axis() {
  const { step, found } = axisTicks();
  const shown = found.filter((at) => shareOf(at) > 3 && shareOf(at) < 97);
  return shown.map((at) => svg("text", { x: `${shareOf(at).toFixed(3)}%`, y: 14, "text-anchor": "middle" }, tickLabel(at, step)));
}

// A row of an account's view: what it is at the left, over time at the right.
function timeRow(title, notes, drawn) {
  return element("div", { className: "row" }, element("div", { className: "label" }, ...(title ? [element("h2", {}, title)] : []), ...notes), drawn);
}

function segmentText([start, end, cause, gaps, missed], verb) {
  const lasting = `${exact(start)} to ${exact(end)}`;
  if (cause === "before") return ["recording had not begun"];
  if (gaps > 1) return [lasting, `${count(gaps)} gaps, ${duration(missed)} not ${verb} in all`, `mostly: ${causeText(cause)}`];
  return [lasting, `not ${verb} for ${duration(missed)}`, causeText(cause)];
}

// The part of a segment that is missing is as high as its share.
function coverageStrip(label, strip, height, verb) {
  const draw = () => [
    ...bar(data.since, data.until, 0, height, "covered"),
    ...strip.segments.flatMap(([start, end, cause, gaps, missed]) => {
      const share = gaps > 1 ? missed / Math.max(end - start, 0.001) : 1;
      return bar(start, end, 0, Math.max(height * share, 4), `${KIND_OF.get(cause) || "lost"} least`);
    }),
  ];
  const tell = (seconds, near) => {
    const found = strip.segments.find(([start, end]) => start - near <= seconds && seconds <= end + near);
    return found ? segmentText(found, verb) : [verb];
  };
  return picture(label, height, draw, tell);
}

// Bars per part of time, on top of each other. `stacks` maps a look to a number for each part.
function stackedBars(label, height, { start, width, stacks, tell }) {
  const sums = [...stacks.values()].reduce((all, numbers) => numbers.map((number, part) => number + (all[part] || 0)), []);
  const draw = () => {
    const shown = sums.map((sum, part) => [sum, part]).filter(([sum, part]) => sum && start + (part + 1) * width > view.from && start + part * width < view.to);
    const most = Math.max(...shown.map(([sum]) => sum), 1);
    const bars = shown.flatMap(([, part]) => {
      let top = height;
      return [...stacks].flatMap(([look, numbers]) => {
        const high = ((height - 14) * numbers[part]) / most;
        top -= high;
        return bar(start + part * width, start + (part + 0.94) * width, top, high, `${look} least`);
      });
    });
    return [...bars, ...scaleLine(count(most))];
  };
  return picture(label, height, draw, (seconds) => {
    const part = Math.floor((seconds - start) / width);
    return sums[part] ? [`${instant(start + part * width)} to ${instant(start + (part + 1) * width)}`, ...tell(part)] : null;
  });
}

// What the height of a picture stands for.
function scaleLine(text) {
  return [svg("rect", { class: "grid", y: 13, width: "100%", height: 1 }), svg("text", { class: "scale", x: 3, y: 10 }, text)];
}

// A line that follows the pointer over all pictures, a tip, and dragging to zoom.
function followPointer(section) {
  const cursor = element("div", { className: "cursor", hidden: true });
  let pressed = null;
  let over = null;
  const at = (event) => {
    const { left, width } = over.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - left) / width, 0), 1);
    return { seconds: view.from + share * (view.to - view.from), near: (6 / width) * (view.to - view.from), x: left + share * width };
  };
  const leave = () => {
    cursor.hidden = true;
    hideTip();
  };
  section.append(cursor);
  section.addEventListener("pointermove", (event) => {
    over = pressed ? over : event.target.closest(".picture");
    if (!over) return leave();
    const { seconds, near, x } = at(event);
    const edge = section.getBoundingClientRect().left;
    const from = pressed ? pressed.x : x;
    cursor.style.left = `${Math.min(from, x) - edge}px`;
    cursor.style.width = `${Math.max(Math.abs(x - from), 1)}px`;
    cursor.hidden = false;
    const lines = tells.get(over)(seconds, near);
    if (lines) showTip(event, [exact(seconds), ...lines]);
    else hideTip();
  });
  section.addEventListener("pointerleave", () => {
    pressed = null;
    leave();
  });
  section.addEventListener("pointerdown", (event) => {
    over = event.target.closest(".picture");
    if (over && event.pointerType === "mouse" && event.button === 0) pressed = at(event);
  });
  section.addEventListener("pointerup", (event) => {
    const from = pressed;
    pressed = null;
    if (!from || !over) return;
    const to = at(event);
    if (Math.abs(to.x - from.x) > 5) setView(Math.min(from.seconds, to.seconds), Math.max(from.seconds, to.seconds));
  });
  section.addEventListener("dblclick", (event) => {
    if (event.target.closest(".picture")) setView(data.since, data.until);
  });
}
