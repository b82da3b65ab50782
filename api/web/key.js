// Asks for a key when the service wants one. It lives as long as the browser's tab.

import { key } from "./api.js";

let asking = null; // several requests that are refused at once ask once

/** Whether a key was given. `wrong`: the one that was sent was not accepted. */
export function askForKey(wrong) {
  asking ??= ask(wrong).finally(() => (asking = null));
  return asking;
}

function ask(wrong) {
  const dialog = document.getElementById("key-dialog");
  const input = document.getElementById("key-input");
  document.getElementById("key-wrong").hidden = !wrong;
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  // No submit button: Enter would press the first one.
  document.getElementById("key-cancel").onclick = () => dialog.close();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = input.value.trim();
        input.value = "";
        if (dialog.returnValue !== "use" || !given) return resolve(false);
        key.set(given);
        document.getElementById("forget-key").hidden = false;
        resolve(true);
      },
      { once: true },
    );
  });
}
