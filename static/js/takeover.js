// The takeover screen: drafts, reply or note, dialogs, and what a refusal looks like.
import { each } from "./page.js";

const DRAFT = "handrail.draft.";
const SAVE_MS = 300;

const stored = (key, value) => {
  try {
    if (value === undefined) return localStorage.getItem(key);
    if (value) localStorage.setItem(key, value);
    else localStorage.removeItem(key);
  } catch {
    return null; // Without storage a draft lives as long as the page.
  }
  return value;
};

/** A name for one message: sent twice, it is kept once. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function hold(form, holding) {
  const reply = form.querySelector('[name="kind"][value="reply"]');
  if (!reply) return;
  const mine = holding.dataset.holding === "mine";
  reply.disabled = !mine;
  if (mine && !form.querySelector('[name="kind"]:checked')) reply.checked = true;
  if (!mine) reply.checked = false;
  say(form);
}

/** The words of the field follow what is chosen: the customer or the team. */
function say(form) {
  const kind = form.querySelector('[name="kind"]:checked')?.value;
  const field = form.elements.content;
  field.placeholder = kind === "note" ? field.dataset.note : field.dataset.reply;
  form.classList.toggle("is-note", kind === "note");
  return kind;
}

each("[data-composer]", (form) => {
  const key = DRAFT + form.dataset.composer;
  const field = form.elements.content;
  const state = form.querySelector("[data-draft-state]");
  let timer = 0;
  form.elements.client_id.value = newId();
  field.value ||= stored(key) ?? "";
  if (field.value) state.textContent = "Draft kept";
  const save = () => {
    stored(key, field.value);
    state.textContent = field.value ? "Draft saved" : "";
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(save, SAVE_MS);
  });
  addEventListener("pagehide", () => stored(key, field.value));
  form.addEventListener("change", () => {
    say(form);
    field.focus();
  });
  for (const label of form.querySelectorAll("label")) label.addEventListener("click", () => setTimeout(() => field.offsetParent && field.focus()));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  let sending = "";
  form.addEventListener("htmx:beforeRequest", (event) => {
    if (sending || !field.value.trim()) return event.preventDefault();
    sending = field.value;
    state.textContent = "Sending";
  });
  form.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (detail.successful) {
      form.elements.client_id.value = newId();
      // What was typed while it was sent stays.
      field.value = field.value === sending ? "" : field.value.replace(sending, "").trimStart();
      clearTimeout(timer);
      save();
      const reply = form.querySelector('[name="kind"][value="reply"]');
      const note = form.querySelector('[name="kind"][value="note"]');
      if (reply && !reply.disabled) reply.checked = true;
      else note.checked = false;
      say(form);
    } else state.textContent = "Not sent, the draft is kept";
    sending = "";
  });
  const holding = document.getElementById("holding");
  if (holding) hold(form, holding);
});

each("#holding", (holding) => {
  for (const form of document.querySelectorAll("[data-composer]")) hold(form, holding);
});

each("#talk", (talk) => {
  if (talk.querySelector(".msg")) talk.scrollTop = talk.scrollHeight;
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) {
    opener.closest("details")?.removeAttribute("open");
    document.getElementById(opener.dataset.opens)?.showModal();
  }
  if (event.target.closest("[data-shuts]") || event.target.matches("dialog")) event.target.closest("dialog")?.close();
});

each(".dialog-form", (form) => {
  form.addEventListener("change", () => {
    const field = form.elements.instruction;
    if (field) field.required = form.elements.how.value !== "none";
  });
  form.addEventListener("htmx:afterRequest", ({ detail }) => {
    form.closest("dialog").close();
    if (detail.successful) form.reset();
  });
});

// A refusal comes with the centre as it is now: it is shown like any answer.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (detail.xhr.status !== 409) return;
  detail.shouldSwap = true;
  detail.isError = false;
});
