// The drawn graph and the source: both show where the selected part is.

const graphBox = byId("graph-box");
const boxes = [...graphBox.querySelectorAll(".box[data-node]")];
if (boxes.length) moveTab(boxes, boxes[0]);
graphBox.addEventListener("click", (event) => {
  const box = event.target.closest(".box[data-node]");
  if (box) select(nodeOf(box), "graph");
});
roving(graphBox, () => boxes, (box) => select(nodeOf(box), "graph"));
graphBox.addEventListener("focusin", (event) => {
  const box = event.target.closest(".box");
  if (box && box.matches(":focus-visible")) reveal(graphBox, box);
});

onSelect((node, from) => {
  let chosen = boxes.filter((box) => isWithin(nodeOf(box), node));
  if (!chosen.length) chosen = boxes.filter((box) => !box.classList.contains("loop") && isWithin(node, nodeOf(box)));
  if (node === nodes[0]) chosen = [];
  for (const box of boxes) box.classList.toggle("chosen", chosen.includes(box));
  if (!chosen.length) return;
  moveTab(boxes, chosen[0]);
  if (from !== "graph") reveal(graphBox, chosen[0], true);
});

const sourceBox = byId("source-box");
onSelect((node, from) => {
  const line = byId(node.at);
  for (const other of sourceBox.querySelectorAll(".line.chosen")) other.classList.remove("chosen");
  if (!line) return;
  line.classList.add("chosen");
  if (from !== "start") reveal(sourceBox, line.querySelector(".no"), true);
});
