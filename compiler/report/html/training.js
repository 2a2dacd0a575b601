// A run's record: four measures of each weight over the steps, those of the selected part strong.

const run = data.run;
const MEASURES = [
  ["norm", "norm of the weight", "over its ball's radius, 1"],
  ["slack", "slack of the update", "its exact norm over lr · target"],
  ["cosine", "cosine", "of the angle between update and minus gradient"],
  ["spent", "spent", "share of the step"],
];

if (run && run.step.length) {
  const choice = byId("run-weight");
  choice.append(el("option", { value: "-1" }, "of the selected part"));
  run.weights.forEach((name, i) => choice.append(el("option", { value: String(i) }, name)));
  const kept = run.step.length < run.recorded ? `${counted(run.step.length)} of ${counted(run.recorded)} recorded steps are shown. ` : "";
  byId("run-about").textContent = `${kept}Select a part, or one weight here, to see it among all others.`;

  const plots = MEASURES.map(([key, title, note]) => ({ key, title, note, series: run[key] }));
  if (run.loss.some(known)) plots.push({ key: "loss", title: "loss", note: "", series: [run.loss], whole: true });
  const drawn = plots.map((plot) => {
    const box = el("div", { class: "plot-box", "data-measure": plot.key });
    byId("run-plots").append(el("div", {}, el("h3", {}, plot.title, " ", el("span", { class: "dim" }, plot.note)), box));
    return { ...plot, box, lines: svg("g"), frame: null };
  });

  const strong = () => {
    const one = Number(choice.value);
    if (one >= 0) return [one];
    return run.node.map((number, i) => (number >= 0 && isWithin(nodes[number], selected) ? i : -1)).filter((i) => i >= 0);
  };
  const show = (plot) => {
    if (!plot.frame) return;
    const { X, Y } = plot.frame;
    const chosen = plot.whole ? [0] : strong();
    const all = chosen.length === plot.series.length;
    const path = (list) => list.map((i) => lineOf(run.step, plot.series[i], X, Y)).join("");
    const several = chosen.length > 6 ? " several" : "";
    const style = all && several ? "series first faint" : `series strong${several}`;
    const others = plot.series.map((_, i) => i).filter((i) => !chosen.includes(i));
    plot.lines.replaceChildren(svg("path", { class: "series many", d: path(others) }), svg("path", { class: style, d: path(chosen) }));
  };
  const read = (plot, at) => {
    const list = plot.whole ? [0] : strong();
    const [low, high] = extent(list.map((i) => plot.series[i][at]));
    const values = list.some((i) => known(plot.series[i][at])) ? range([low, high]) : "not known";
    return `step ${run.step[at]}: ${values}${list.length === 1 && !plot.whole ? ` (${run.weights[list[0]]})` : ""}`;
  };
  for (const plot of drawn) {
    whenResized(plot.box, (width) => {
      const values = plot.series.flat();
      const [low, high] = extent(values);
      plot.frame = axes({
        width: width + 24, height: 170, x: [run.step[0], run.step[run.step.length - 1]], y: [low, high], log: false,
        name: plot.title, xName: "step",
        about: `${plot.title} over ${run.step.length} steps, from ${fmt(low)} to ${fmt(high)}. Arrow keys move along the steps.`,
      });
      plot.frame.picture.append(plot.lines);
      const readout = el("p", { class: "readout", "aria-live": "polite" });
      cursor(plot.frame, run.step, readout, (at) => read(plot, at), null);
      plot.box.replaceChildren(plot.frame.picture, readout);
      show(plot);
    });
  }
  choice.addEventListener("change", () => {
    const one = Number(choice.value);
    if (one >= 0 && run.node[one] >= 0) select(nodes[run.node[one]], "run");
    drawn.forEach(show);
  });
  onSelect((_, from) => {
    if (from !== "run") choice.value = "-1";
    drawn.forEach(show);
  });
}
