"use strict";
// Everything is readable without: tables sort, runs switch, pictures enlarge.

// ---------------------------------------------------------------- sorting
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const marked = cell.querySelector("[data-value]");
  const raw = marked ? marked.dataset.value : cell.textContent.trim();
  return raw === "" ? null : isNaN(raw) ? raw.toLowerCase() : Number(raw);
};

const sortBy = (header) => {
  const table = header.closest("table");
  const rising = header.getAttribute("aria-sort") === "descending" ||
    (!header.hasAttribute("aria-sort") && !header.classList.contains("number"));
  const column = header.cellIndex;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [valueOf(a, column), valueOf(b, column)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing goes last
    const order = x < y ? -1 : x > y ? 1 : 0;
    return rising ? order : -order;
  });
  table.tBodies[0].append(...rows);
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
};

for (const header of document.querySelectorAll("table.sortable th")) {
  header.tabIndex = 0;
  header.addEventListener("click", () => sortBy(header));
  header.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      sortBy(header);
    }
  });
}

// ---------------------------------------------------------------- runs
const tabs = [...document.querySelectorAll("[role=tab]")];
const show = (chosen) => {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab === chosen);
    document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
};
for (const tab of tabs) tab.addEventListener("click", () => show(tab));
if (tabs.length) show(tabs[0]);

// ---------------------------------------------------------------- pictures
const dialog = document.querySelector("dialog");
const pictures = [...document.querySelectorAll("button.picture")];
let at = 0;

const large = dialog.querySelector("img");

// As large as the window allows, with the names of segments that do not cover another name
const fit = (names) => {
  const frame = large.parentNode;
  const ratio = large.naturalWidth / large.naturalHeight;
  frame.style.width = `${Math.min(dialog.clientWidth, 0.76 * window.innerHeight * ratio)}px`;
  for (const old of frame.querySelectorAll("span")) old.remove();
  const taken = [];
  for (const [x, y, name] of names) {
    const label = document.createElement("span");
    label.textContent = name;
    label.style.left = `${100 * x}%`;
    label.style.top = `${100 * y}%`;
    frame.append(label);
    const box = label.getBoundingClientRect();
    const covers = (other) => box.left < other.right && other.left < box.right &&
      box.top < other.bottom && other.top < box.bottom;
    if (taken.some(covers)) label.remove();
    else taken.push(box);
  }
};

const visible = () => pictures.filter((each) => each.offsetParent !== null);
const enlarge = (button) => {
  at = visible().indexOf(button);
  const small = button.querySelector("img");
  large.src = small.src;
  large.alt = small.alt;
  dialog.querySelector("p").textContent = small.alt;
  if (!dialog.open) dialog.showModal();
  large.decode().then(() => fit(JSON.parse(button.dataset.names || "[]")));
};
const step = (by) => {
  const all = visible();
  enlarge(all[(at + by + all.length) % all.length]);
};

for (const button of pictures) button.addEventListener("click", () => enlarge(button));
dialog.querySelector(".previous").addEventListener("click", () => step(-1));
dialog.querySelector(".next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the picture
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
