// The theme, the list of sections, and the first picture.

const root = document.documentElement;
const preferred = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
function showTheme() {
  byId("theme").setAttribute("aria-pressed", String(isDark()));
  byId("theme").setAttribute("aria-label", "dark colours");
  byId("theme-name").textContent = isDark() ? "light" : "dark";
}
byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
preferred.addEventListener("change", showTheme);
showTheme();

for (const section of document.querySelectorAll("main > section")) {
  byId("contents").append(el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
}

render();
select(nodes[0], "start");
root.dataset.ready = "true";
