// Axes with points and lines; a cursor that follows the pointer or the arrow keys.

const PLOT = { left: 52, right: 10, top: 8, bottom: 30 };

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!known(value) || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

function linearTicks(low, high, count = 5) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9) + 1e-300; i += 1) found.push(i * step);
  return found;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const steps = decades > 4 ? [1] : decades > 1 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of steps) {
      const value = step * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  const skip = Math.ceil(found.length / 7);
  return found.filter((_, i) => i % skip === 0);
}

// A frame with both axes; gives the picture and where values stand in it.
function axes({ width, height, xs, y, log, name, about, xName }) {
  const x = [xs[0], xs.at(-1)];
  let [low, high] = y;
  if (log) [low, high] = high > low * 1.0001 ? [low / 1.25, high * 1.25] : [low / 2, high * 2];
  else if (high - low < 1e-9 * Math.max(Math.abs(high), 1)) [low, high] = [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)];
  else [low, high] = [low - (high - low) * 0.05, high + (high - low) * 0.05];
  const [left, right] = [PLOT.left, width - PLOT.right];
  const [top, bottom] = [PLOT.top, height - PLOT.bottom];
  const spread = x[1] > x[0] ? x[1] - x[0] : 1;
  const pad = 8;
  const X = (value) => left + pad + ((value - x[0]) / spread) * (right - left - 2 * pad);
  const place = log ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
  const Y = (value) => (log && !(value > 0) ? bottom : bottom - place(value) * (bottom - top));
  const picture = svg("svg", { class: "plot", width, height, role: "group", tabindex: "0", "aria-label": about },
    svg("title", {}, name), svg("desc", {}, about));
  const ticks = log ? logTicks(low, high) : linearTicks(low, high);
  const apart = log ? 0 : Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (ticks[1] - ticks[0]));
  const digits = Math.min(Math.max(Math.ceil(apart) + 1 || 0, 3), 6); // so that neighbours read differently
  for (const tick of ticks) {
    picture.append(svg("path", { class: "grid", d: `M${left} ${Y(tick)}H${right}` }),
      svg("text", { class: "axis", x: left - 6, y: Y(tick) + 4, "text-anchor": "end" }, fmt(tick, digits)));
  }
  for (const tick of linearTicks(x[0], x[0] + spread, Math.max(Math.floor(width / 90), 2))) {
    if (!Number.isInteger(tick)) continue;
    picture.append(svg("text", { class: "axis", x: X(tick), y: bottom + 14, "text-anchor": "middle" }, String(tick)));
  }
  picture.append(svg("path", { class: "grid", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { class: "axis", x: right, y: height - 4, "text-anchor": "end" }, xName));
  const back = (px) => x[0] + ((px - left - pad) / (right - left - 2 * pad)) * spread;
  return { picture, X, Y, back, top, bottom };
}

function lineOf(xs, ys, X, Y) {
  let path = "";
  let pen = "M";
  for (let i = 0; i < xs.length; i += 1) {
    if (!known(ys[i])) {
      pen = "M";
      continue;
    }
    path += `${pen}${X(xs[i]).toFixed(1)} ${Y(ys[i]).toFixed(1)}`;
    if (pen === "M" && !known(ys[i + 1])) path += "m-3 0h6"; // alone, it is a dash
    pen = "L";
  }
  return path;
}

const dotsOf = (xs, ys, X, Y) => xs.map((x, i) => (known(ys[i]) ? `M${X(x).toFixed(1)} ${Y(ys[i]).toFixed(1)}h0` : "")).join("");

// A line at one of `xs`, moved by pointer and keys; `read` says what is there, `pick` takes it.
function cursor(frame, xs, readout, read, pick) {
  const mark = svg("path", { class: "cursor", visibility: "hidden" });
  frame.picture.append(mark);
  let at = -1;
  const move = (to) => {
    at = Math.min(Math.max(to, 0), xs.length - 1);
    mark.setAttribute("d", `M${frame.X(xs[at]).toFixed(1)} ${frame.top}V${frame.bottom}`);
    mark.setAttribute("visibility", "visible");
    readout.textContent = read(at);
  };
  const nearest = (event) => {
    const wanted = frame.back(event.clientX - frame.picture.getBoundingClientRect().left);
    let [low, high] = [0, xs.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < wanted) low = middle;
      else high = middle;
    }
    return wanted - xs[low] < xs[high] - wanted ? low : high;
  };
  frame.picture.addEventListener("pointermove", (event) => move(nearest(event)));
  frame.picture.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    readout.textContent = "";
  });
  frame.picture.addEventListener("click", (event) => {
    move(nearest(event));
    if (pick) pick(at);
  });
  frame.picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (step) move(at + step);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(xs.length - 1);
    else if ((event.key === "Enter" || event.key === " ") && pick && at >= 0) pick(at);
    else return;
    event.preventDefault();
  });
}

// A plot in a box, drawn anew when that gets another width: `lines` draws what depends on the part
// that is selected, which the function returned shows again; `read` and `pick` are the cursor's.
function chart(box, lines, read, pick, options) {
  const drawn = svg("g");
  let frame = null;
  const show = () => frame && drawn.replaceChildren(...lines(frame));
  whenResized(box, (width) => {
    const readout = el("p", { class: "readout", "aria-live": "polite" });
    frame = axes({ width, ...options });
    frame.picture.append(drawn);
    cursor(frame, options.xs, readout, read, pick);
    box.replaceChildren(frame.picture, readout);
    show();
  });
  onSelect(show);
  return show;
}
