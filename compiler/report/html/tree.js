// The tree of parts: rows that fold, search, and what is known of the selected part.

const tree = byId("tree");
const search = byId("search");
const OPEN_ROWS = 60;
const open = new Set(nodes.filter((n) => n.children.length && (nodes.length <= OPEN_ROWS || n.depth < 3)));
let query = "";
let hits = new Set();
let rows = []; // [node, its element], in the order shown

if (data.checked) byId("parts").classList.add("measured");
byId("tree-head").append(
  el("span", {}, "part"),
  el("span", {}, "mass"),
  ...["declared", "certified", ...(data.checked ? ["measured"] : []), "target"].map((name) =>
    el("span", { class: "num" }, name)
  )
);

const words = (node) => [node.name, node.op, node.call, node.path, shownPath(node)].filter(Boolean);
const matches = (node, text) => words(node).some((word) => word.toLowerCase().includes(text));
const isOpen = (node) => open.has(node) || (query && node.children.some((child) => hits.has(child)));

function visible() {
  const found = [];
  const walk = (node) => {
    if (query && !hits.has(node)) return;
    found.push(node);
    if (node.children.length && isOpen(node)) node.children.forEach(walk);
  };
  walk(nodes[0]);
  return found;
}

function marked(text) {
  const at = query ? text.toLowerCase().indexOf(query) : -1;
  if (at < 0) return [text];
  const end = at + query.length;
  return [text.slice(0, at), el("mark", {}, text.slice(at, end)), text.slice(end)];
}

function nameCell(node) {
  const twist = node.children.length ? (isOpen(node) ? "▾" : "▸") : "";
  const title = el(node.kind === "atom" ? "b" : "span", {}, ...marked(node.name));
  const cell = el("span", { class: "name", title: shownPath(node) }, el("span", { class: "twist", "aria-hidden": "true" }, twist), title);
  cell.style.paddingLeft = `${node.depth * 13}px`;
  if (node.count > 1) cell.append(el("span", { class: "times" }, ` × ${counted(node.count)}`));
  if (node.call) cell.append(el("span", { class: "call" }, ...marked(node.call)));
  return cell;
}

function shareCell(node) {
  const width = data.checked ? 26 : 38;
  const filledTo = node.share ? Math.max(node.share * width, 1) : 0;
  const bar = svg("svg", { width, height: 10, "aria-hidden": "true" });
  bar.append(svg("rect", { width: filledTo, height: 10, rx: 1.5 }));
  return el("span", {}, bar, el("span", { class: "share" }, node.share ? percent(node.share) : ""));
}

function certifiedCell(node) {
  const above = known(node.certified) && node.certified > node.declared * (1 + 1e-9);
  return el("span", { class: above ? "num warn" : "num" }, fmt(node.certified));
}

function measuredCell(node) {
  const bad = node.verdict === "violated";
  const title = node.verdict || null;
  return el("span", { class: bad ? "num bad" : "num", title }, known(node.measured) ? fmt(node.measured) : "");
}

function row(node) {
  const made = el(
    "div",
    {
      class: `row ${node.kind}`,
      role: "treeitem",
      id: `n${node.i}`,
      "aria-level": node.depth + 1,
      "aria-expanded": node.children.length ? String(Boolean(isOpen(node))) : null,
      "aria-selected": String(node === selected),
      tabindex: node === selected ? "0" : "-1",
    },
    nameCell(node),
    shareCell(node),
    el("span", { class: "num" }, fmt(node.declared)),
    certifiedCell(node)
  );
  if (data.checked) made.append(measuredCell(node));
  made.append(el("span", { class: "num" }, node.targets ? range(node.targets, 3) : ""));
  return made;
}

function render() {
  const held = tree.contains(document.activeElement);
  const shown = visible();
  const siblings = new Map();
  for (const node of shown) siblings.set(node.parent, (siblings.get(node.parent) || 0) + 1);
  const turn = new Map();
  rows = shown.map((node) => {
    const made = row(node);
    turn.set(node.parent, (turn.get(node.parent) || 0) + 1);
    made.setAttribute("aria-setsize", siblings.get(node.parent));
    made.setAttribute("aria-posinset", turn.get(node.parent));
    return [node, made];
  });
  if (!rows.some(([node]) => node === selected) && rows.length) rows[0][1].setAttribute("tabindex", "0");
  tree.replaceChildren(...rows.map(([, made]) => made));
  if (held) focusRow(selected);
}

const rowOf = (node) => rows.find(([other]) => other === node);
function focusRow(node) {
  const found = rowOf(node) || rows[0];
  if (found) found[1].focus({ preventScroll: true });
}

function toggle(node, wanted = !isOpen(node)) {
  if (!node.children.length) return;
  if (wanted) open.add(node);
  else open.delete(node);
  render();
}

function go(node) {
  select(node, "tree");
  focusRow(node);
}

tree.addEventListener("click", (event) => {
  const made = event.target.closest("[role=treeitem]");
  if (!made) return;
  const node = nodes[Number(made.id.slice(1))];
  if (event.target.closest(".twist")) toggle(node);
  go(node);
});
tree.addEventListener("dblclick", (event) => {
  const made = event.target.closest("[role=treeitem]");
  if (made && !event.target.closest(".twist")) toggle(nodes[Number(made.id.slice(1))]);
});

tree.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const at = Math.max(rows.findIndex(([, made]) => made === document.activeElement), 0);
  if (!rows.length) return;
  const node = rows[at][0];
  const to = (index) => go(rows[Math.min(Math.max(index, 0), rows.length - 1)][0]);
  if (event.key === "ArrowDown") to(at + 1);
  else if (event.key === "ArrowUp") to(at - 1);
  else if (event.key === "Home") to(0);
  else if (event.key === "End") to(rows.length - 1);
  else if (event.key === "ArrowRight") {
    if (node.children.length && !isOpen(node)) toggle(node, true);
    else if (node.children.length) to(at + 1);
  } else if (event.key === "ArrowLeft") {
    if (node.children.length && isOpen(node) && !query) toggle(node, false);
    else if (node.parent >= 0) go(nodes[node.parent]);
  } else if (event.key === "Enter" || event.key === " ") {
    toggle(node);
    go(node);
  } else if (event.key === "*") {
    for (const sibling of node.parent >= 0 ? nodes[node.parent].children : [node]) {
      if (sibling.children.length) open.add(sibling);
    }
    render();
  } else if (event.key.length === 1 && event.key !== "/") {
    const letter = event.key.toLowerCase();
    const order = [...rows.slice(at + 1), ...rows.slice(0, at + 1)];
    const next = order.find(([other]) => other.name.toLowerCase().startsWith(letter));
    if (next) go(next[0]);
  } else return;
  event.preventDefault();
});

// --- search -------------------------------------------------------------------------------

function find(text) {
  query = text.trim().toLowerCase();
  hits = new Set();
  let count = 0;
  if (query) {
    for (const node of nodes) {
      if (!matches(node, query)) continue;
      count += 1;
      for (let at = node; at; at = at.parent >= 0 ? nodes[at.parent] : null) hits.add(at);
    }
    hits.add(nodes[0]);
  }
  byId("hits").textContent = query ? `${count} found` : "";
  render();
}
search.addEventListener("input", () => find(search.value));
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    search.value = "";
    find("");
    focusRow(selected);
  } else if (event.key === "Enter" || event.key === "ArrowDown") {
    const first = rows.find(([node]) => query && matches(node, query));
    go(first ? first[0] : selected);
  } else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.key !== "/" || typing || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  search.focus();
  search.select();
});
byId("expand").addEventListener("click", () => {
  nodes.filter((node) => node.children.length).forEach((node) => open.add(node));
  render();
});
byId("collapse").addEventListener("click", () => {
  open.clear();
  open.add(nodes[0]);
  select(rowOf(selected) ? topmost(selected) : nodes[0], "tree");
  render();
});
function topmost(node) {
  while (node.depth > 1) node = nodes[node.parent];
  return node;
}

// --- the selected part ----------------------------------------------------------------------

function details(node) {
  const facts = [
    ["kind", node.op ? `${node.op}, ${node.kind}` : node.kind],
    ["copies", node.copies > 1 ? counted(node.copies) : ""],
    ["shape", node.shape ? node.shape.join(" × ") : ""],
    ["mass", node.mass ? `${fmt(node.mass)} (${percent(node.share)})` : "0"],
    ["declared", fmt(node.declared)],
    ["certified", fmt(node.certified)],
    ["measured", known(node.measured) ? fmt(node.measured) : ""],
    ["verdict", node.verdict || ""],
    ["target", node.targets ? (node.targets[1] === 0 ? "0 (frozen)" : range(node.targets)) : ""],
    ["output norm", node.norm ? bounds(node.norm) : ""],
  ];
  const list = el("dl");
  for (const [name, value] of facts) {
    if (value !== "") list.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  }
  const place = el("a", { href: `#${node.at}` }, node.where);
  list.append(el("div", {}, el("dt", {}, "source"), el("dd", {}, place)));
  byId("details").replaceChildren(el("h3", {}, shownPath(node) + (node.call ? `: ${node.call}` : "")), list);
}
function bounds([kind, low, high]) {
  const from = low ? `${fmt(low)} ≤ ` : "";
  return `${from}${kind}${known(high) ? ` ≤ ${fmt(high)}` : ""}`;
}

onSelect((node) => {
  let hidden = false;
  for (let at = node; at.parent >= 0; at = nodes[at.parent]) {
    if (!isOpen(nodes[at.parent])) {
      open.add(nodes[at.parent]);
      hidden = true;
    }
  }
  if (query && !hits.has(node)) {
    search.value = "";
    find("");
  }
  if (hidden) render();
  for (const [other, made] of rows) {
    made.setAttribute("aria-selected", String(other === node));
    made.setAttribute("tabindex", other === node ? "0" : "-1");
  }
  details(node); // before the row is looked for: they take room from the tree
  const found = rowOf(node);
  if (found) reveal(byId("tree-box"), found[1]);
});
