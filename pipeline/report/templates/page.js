// The page is whole without this script. It sorts tables, finds domains by name, keeps the theme,
// and opens the part of the page that a link leads to.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const THEME = "iak-theme";
  const stored = (change) => {
    // A browser may refuse storage to a local file.
    try { return change(localStorage); } catch { return null; }
  };
  const kept = stored((storage) => storage.getItem(THEME));
  for (const radio of document.querySelectorAll("input[name=theme]")) {
    if (radio.value === kept) radio.checked = true;
    radio.addEventListener("change", () => stored((storage) => storage.setItem(THEME, radio.value)));
  }

  const sortBy = (table, column, isNumber, sign) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const text = row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      return { row, key: isNumber ? (text === "" ? NaN : Number(text)) : text };
    });
    const isMissing = ({ key }) => (isNumber ? Number.isNaN(key) : key === "");
    keyed.sort((a, b) => {
      // Rows without a value stand last in either direction.
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
      return sign * (isNumber ? a.key - b.key : a.key.localeCompare(b.key));
    });
    body.append(...keyed.map(({ row }) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const isNumber = head.dataset.sort === "number";
        const before = head.getAttribute("aria-sort");
        // Numbers begin with the largest, names with the first.
        const isDown = before ? before === "ascending" : isNumber;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
        sortBy(table, column, isNumber, isDown ? -1 : 1);
      });
    });
  }

  for (const input of document.querySelectorAll("input[type=search]")) {
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    const said = document.getElementById(input.getAttribute("aria-describedby"));
    const find = () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) {
        row.classList.toggle("filtered", !row.cells[0].textContent.toLowerCase().includes(wanted));
      }
      const shown = rows.filter((row) => row.offsetParent !== null).length;
      said.textContent = `${shown} of ${rows.length} shown`;
    };
    input.addEventListener("input", find);
    document.addEventListener("change", find);
  }

  const open = () => {
    const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
    if (target?.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", open);
  open();
})();
