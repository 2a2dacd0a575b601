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

  const strong = () => {
    const one = Number(choice.value);
    if (one >= 0) return [one];
    return run.node.flatMap((number, i) => (isWithin(nodes[number], selected) ? [i] : []));
  };
  const plot = ([key, title, note], series, chosen) => {
    const box = el("div", { class: "plot-box", "data-measure": key });
    byId("run-plots").append(el("div", {}, el("h3", {}, title, " ", el("span", { class: "dim" }, note)), box));
    const lines = ({ X, Y }) => {
      const list = chosen();
      const path = (some) => some.map((i) => lineOf(run.step, series[i], X, Y)).join("");
      const several = list.length > 6 ? " several" : "";
      const all = list.length === series.length;
      const style = all && several ? "series first faint" : `series strong${several}`;
      const others = series.map((_, i) => i).filter((i) => !list.includes(i));
      return [svg("path", { class: "series many", d: path(others) }), svg("path", { class: style, d: path(list) })];
    };
    const read = (at) => {
      const values = chosen().map((i) => series[i][at]);
      const name = values.length === 1 && key !== "loss" ? ` (${run.weights[chosen()[0]]})` : "";
      return `step ${run.step[at]}: ${values.some(known) ? range(extent(values)) : "not known"}${name}`;
    };
    const [low, high] = extent(series.flat());
    const about = `${title} over ${run.step.length} steps, from ${fmt(low)} to ${fmt(high)}. Arrow keys move along the steps.`;
    return chart(box, lines, read, null, { height: 170, xs: run.step, y: [low, high], log: false, name: title, about, xName: "step" });
  };
  onSelect((_, from) => {
    if (from !== "run") choice.value = "-1";
  });
  const shows = MEASURES.map((measure) => plot(measure, run[measure[0]], strong));
  if (run.loss.some(known)) shows.push(plot(["loss", "loss", ""], [run.loss], () => [0]));
  choice.addEventListener("change", () => {
    const one = Number(choice.value);
    if (one >= 0 && run.node[one] >= 0) select(nodes[run.node[one]], "run");
    shows.forEach((show) => show());
  });
}
