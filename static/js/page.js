// What every module shares: doing a thing to each element that is or will be on the page, icons, settings.

export const settings = document.body.dataset;

/** Calls `act(element)` once for each match, now and whenever htmx or live.js adds some. */
export function each(selector, act) {
  const seen = new WeakSet();
  const visit = (root) => {
    const found = root.matches?.(selector) ? [root, ...root.querySelectorAll(selector)] : root.querySelectorAll(selector);
    for (const element of found) {
      if (seen.has(element)) continue;
      seen.add(element);
      act(element);
    }
  };
  visit(document);
  document.addEventListener("htmx:load", (event) => visit(event.detail.elt));
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes; never a style attribute, which the content policy forbids. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function icon(name, size = 16) {
  return svg(
    "svg",
    { class: `icon icon-${name}`, width: size, height: size, "aria-hidden": "true" },
    svg("use", { href: `${settings.icons}#${name}` }),
  );
}

/** An HTML element: make("span", { class: "name" }, "text"). */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export const isTyping = (element) =>
  Boolean(element?.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]"));
