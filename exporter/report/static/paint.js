// Colours, each with a pattern for those who cannot tell colours apart; canvases; the coverage strip.

const GUTTER = 52; // pixels left of every picture, so that the same instant is at the same place
const MARGIN = 12; // pixels right of it
const AXIS = 22; // pixels below it

// What each looks like: a colour of page.css, and the lines over it.
const LOOKS = {
  on: ["--on", "plain"],
  off: ["--off", "rising"],
  busy: ["--busy", "grid"],
  observed: ["--observed", "plain"],
  before: ["--panel", "dots"],
  not_running: ["--grey", "rising"],
  not_kept: ["--grey", "grid"],
  unreachable: ["--vermilion", "plain"],
  timeout: ["--orange", "falling"],
  server_error: ["--purple", "dots"],
  rate_limited: ["--yellow", "level"],
  unauthorized: ["--blue", "grid"],
  rejected: ["--sky", "upright"],
  invalid_response: ["--green", "falling"],
  superseded: ["--grey", "dots"],
  standing: ["--text", "plain"],
  mean: ["--blue", "plain"],
  slowest: ["--vermilion", "plain"],
  skew: ["--purple", "plain"],
  appeared: ["--green", "plain"],
  changed: ["--blue", "falling"],
  disappeared: ["--vermilion", "level"],
};
const LINES = {
  plain: [],
  rising: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]],
  falling: [[0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]],
  level: [[0, 4, 8, 4]],
  upright: [[4, 0, 4, 8]],
  grid: [[0, 4, 8, 4], [4, 0, 4, 8]],
  dots: [[3, 4, 5, 4]],
};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A fill for canvases whose units are device pixels, or CSS pixels if `scaled`.
function fill(context, what, scaled) {
  const [base, lines] = LOOKS[what] || LOOKS.not_running;
  const ratio = devicePixelRatio || 1;
  const tile = element("canvas", { width: Math.round(8 * ratio), height: Math.round(8 * ratio) });
  const pen = tile.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colour(base);
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = colour(what === "before" ? "--line" : "--panel");
  pen.lineWidth = 1.6;
  for (const [x, y, toX, toY] of LINES[lines]) {
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(toX, toY);
    pen.stroke();
  }
  const pattern = context.createPattern(tile, "repeat");
  if (scaled) pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}

function swatch(what) {
  const canvas = element("canvas", { className: "swatch", "aria-hidden": "true" });
  const paint = () => {
    const pen = prepare(canvas, 16, 12);
    pen.fillStyle = fill(pen, what, true);
    pen.fillRect(0, 0, 16, 12);
  };
  repaint.push(paint);
  paint();
  return canvas;
}

// [what, text] each.
function legend(entries) {
  const items = entries.map(([what, text]) => element("li", {}, swatch(what), text));
  return element("ul", { className: "legend" }, ...items);
}

// What to call when colours or widths have changed.
const repaint = [];

function prepare(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}

// A canvas along time, as wide as its place: paint(pen, x, width) draws; tell(seconds) gives the
// lines of the tip, or null.
function timeline(height, label, paint, tell, axis) {
  const canvas = element("canvas", { className: "timeline", role: "img", "aria-label": label });
  const box = element("div", { className: "plot" }, canvas);
  let pressed = null;
  const width = () => box.clientWidth || 600;
  const plot = () => Math.max(width() - GUTTER - MARGIN, 10);
  const x = (seconds) => GUTTER + ((seconds - view.from) / (view.to - view.from)) * plot();
  const at = (event) => {
    const share = (event.clientX - canvas.getBoundingClientRect().left - GUTTER) / plot();
    return view.from + Math.min(Math.max(share, 0), 1) * (view.to - view.from);
  };
  const redraw = () => {
    const pen = prepare(canvas, width(), height + (axis ? AXIS : 0));
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, 0, plot(), height);
    pen.clip();
    paint(pen, x, plot());
    pen.restore();
    if (axis) drawAxis(pen, x, plot(), height);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (pressed !== null) {
      redraw();
      const pen = canvas.getContext("2d");
      pen.fillStyle = colour("--select");
      pen.fillRect(x(pressed), 0, x(at(event)) - x(pressed), height);
    }
    const lines = tell(at(event));
    if (lines) showTip(event, [exact(at(event)), ...lines]);
    else hideTip();
  });
  canvas.addEventListener("pointerleave", () => {
    hideTip();
    if (pressed !== null) redraw();
    pressed = null;
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) pressed = at(event);
  });
  canvas.addEventListener("pointerup", (event) => {
    const from = pressed;
    pressed = null;
    if (from !== null && Math.abs(x(at(event)) - x(from)) > 5) {
      setView(Math.min(from, at(event)), Math.max(from, at(event)));
    }
  });
  canvas.addEventListener("dblclick", () => setView(data.since, data.until));
  return { box, redraw };
}

function drawAxis(pen, x, plot, top) {
  const { step, found } = ticks(view.from, view.to, Math.max(Math.floor(plot / 80), 2));
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "center";
  for (const seconds of found) {
    pen.beginPath();
    pen.moveTo(x(seconds), top);
    pen.lineTo(x(seconds), top + 4);
    pen.stroke();
    const text = tickLabel(seconds, step);
    const half = pen.measureText(text).width / 2;
    const right = GUTTER + plot + MARGIN - half;
    pen.fillText(text, Math.min(x(seconds), right), top + 17);
  }
}

// The newest version of the exporter from each of its first polls on.
function markVersions(pen, account, x, height) {
  pen.strokeStyle = colour("--text");
  pen.setLineDash([3, 3]);
  for (const [, first] of account.versions.slice(1)) {
    pen.beginPath();
    pen.moveTo(x(first), 0);
    pen.lineTo(x(first), height);
    pen.stroke();
  }
  pen.setLineDash([]);
}

function gapAt(account, seconds) {
  return account.segments.find(([start, end]) => start <= seconds && seconds < end);
}

function gapText([, , why, gaps, missed]) {
  if (why === "before") return "recording had not begun";
  if (gaps > 1) return `${count(gaps)} gaps, ${duration(missed)} not observed, mostly: ${cause(why)}`;
  return `not observed for ${duration(missed)}: ${cause(why)}`;
}

function coverageStrip(account) {
  const height = 34;
  const paint = (pen, x, plot) => {
    pen.fillStyle = fill(pen, "observed", true);
    pen.fillRect(GUTTER, 0, plot, height);
    for (const [start, end, why] of account.segments) {
      if (end < view.from || start > view.to) continue;
      pen.fillStyle = fill(pen, why, true);
      // However short, it can be seen.
      pen.fillRect(x(start), 0, Math.max(x(end) - x(start), 2), height);
    }
    markVersions(pen, account, x, height);
  };
  const tell = (seconds) => {
    const near = (view.to - view.from) / 400;
    const gap =
      gapAt(account, seconds) ||
      account.segments.find(([start, end]) => start - near <= seconds && seconds <= end + near);
    return gap ? [gapText(gap), `${exact(gap[0])} to ${exact(gap[1])}`] : ["observed"];
  };
  const gaps = account.longest.length ? `${count(account.gaps)} gaps; listed below` : "no gaps";
  const label = `Coverage of ${visible(account.name)}: ${gaps}`;
  return timeline(height, label, paint, tell, true);
}
