// Copies what the pages use from node_modules into static/vendor/: fonts, htmx, plotly, the icon sprite and
// the licences for the About page. Everything here is made again by `npm run build`; nothing of it is committed.
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { ICONS } from "./icons.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const vendor = join(root, "static", "vendor");
const from = (...parts) => join(root, "node_modules", ...parts);

function sprite() {
  const symbols = ICONS.map((name) => {
    const svg = readFileSync(from("@tabler", "icons", "icons", "outline", `${name}.svg`), "utf8");
    const body = svg
      .slice(svg.indexOf(">", svg.indexOf("<svg")) + 1, svg.lastIndexOf("</svg>"))
      .replace(/<path stroke="none" d="M0 0h24v24H0z" fill="none" ?\/>/, "")
      .replace(/\s+/g, " ")
      .trim();
    return `<symbol id="${name}" viewBox="0 0 24 24">${body}</symbol>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`;
}

function font(name) {
  const source = from("@fontsource-variable", name);
  const css = readFileSync(join(source, "index.css"), "utf8").replaceAll("./files/", "fonts/");
  for (const [, file] of css.matchAll(/url\(fonts\/([^)]+)\)/g)) {
    cpSync(join(source, "files", file), join(vendor, "fonts", file));
  }
  return css;
}

// Comments of the form sourceMappingURL name files that are not copied; Django's hashed storage would look for them.
const withoutSourceMap = (text) => text.replace(/\n?\/\/# sourceMappingURL=\S+\s*$/, "\n");

function licences() {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return Object.keys(dependencies).map((name) => {
    const { version, license, homepage } = JSON.parse(readFileSync(from(name, "package.json"), "utf8"));
    const file = readdirSync(from(name)).find((entry) => /^licen[cs]e/i.test(entry));
    return { name, version, license, homepage, text: file ? readFileSync(from(name, file), "utf8") : "" };
  });
}

rmSync(vendor, { recursive: true, force: true });
mkdirSync(join(vendor, "fonts"), { recursive: true });
const made = {
  "icons.svg": sprite(),
  "fonts.css": ["inter", "jetbrains-mono"].map(font).join("\n"),
  "htmx.js": withoutSourceMap(readFileSync(from("htmx.org", "dist", "htmx.min.js"), "utf8")),
  "plotly.js": withoutSourceMap(
    readFileSync(from("plotly.js-basic-dist-min", "plotly-basic.min.js"), "utf8"),
  ),
  "licences.json": JSON.stringify(licences(), null, 1),
};
for (const [name, text] of Object.entries(made)) {
  writeFileSync(join(vendor, name), text);
  const kb = (gzipSync(text, { level: 9 }).length / 1000).toFixed(1);
  process.stdout.write(`static/vendor/${name}  ${kb} kB gzip\n`);
}
