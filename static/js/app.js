// The entry of every page. Charts and the waterfall are fetched only where a page has one.
import { each } from "./page.js";
import * as bulk from "./bulk.js";
import * as copy from "./copy.js";
import * as keys from "./keys.js";
import * as live from "./live.js";
import * as menus from "./menus.js";
import * as presence from "./presence.js";
import * as tabs from "./tabs.js";
import * as times from "./times.js";
import * as toast from "./toast.js";

for (const part of [menus, keys, tabs, times, toast, copy, bulk, live, presence]) part.start();

each("[data-chart]", async (figure) => (await import("./charts.js")).draw(figure));
each("[data-waterfall]", async (element) => (await import("./waterfall.js")).draw(element));
