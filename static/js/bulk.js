// Ticked rows act together: <form id="bulk" data-bulk hidden> appears over the filters while boxes with form="bulk"
// are ticked, and says how many. [data-check-all="bulk"] ticks them all; the server's event bulk:done unticks them.

// The boxes are named "id", and a form answers to the names of its fields: form.id would be the boxes.
const idOf = (form) => form.getAttribute("id");
const boxesOf = (form) => [...document.querySelectorAll(`[data-row] input[type=checkbox][form="${idOf(form)}"]`)];

function count(form) {
  const boxes = boxesOf(form);
  const ticked = boxes.filter((box) => box.checked).length;
  form.hidden = ticked === 0;
  for (const each of form.querySelectorAll("[data-bulk-count]")) each.textContent = ticked;
  const all = document.querySelector(`[data-check-all="${idOf(form)}"]`);
  if (!all) return;
  all.checked = ticked > 0 && ticked === boxes.length;
  all.indeterminate = ticked > 0 && ticked < boxes.length;
}

function tick(form, on) {
  for (const box of boxesOf(form)) box.checked = on;
  count(form);
}

export function start() {
  const form = document.querySelector("[data-bulk]");
  document.addEventListener("click", (event) => event.target.closest("[data-dismiss]")?.parentElement.remove());
  if (!form) return;
  count(form); // A browser that goes back ticks what was ticked.
  document.addEventListener("change", ({ target }) => {
    if (target.matches?.(`[data-check-all="${idOf(form)}"]`)) tick(form, target.checked);
    else if (target.matches?.(`[data-row] input[form="${idOf(form)}"]`)) count(form);
  });
  document.addEventListener("live:shown", () => count(form));
  document.addEventListener("bulk:done", () => {
    tick(form, false);
    form.reset();
    for (const menu of form.querySelectorAll("details[open]")) menu.open = false;
  });
  form.addEventListener("click", (event) => event.target.closest("[data-bulk-clear]") && tick(form, false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !form.hidden && !document.querySelector("dialog[open], details.menu[open]")) tick(form, false);
  });
}
