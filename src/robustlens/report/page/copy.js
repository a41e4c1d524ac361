"use strict";
// Buttons that copy a table as text with tabs, which spreadsheets and editors take in as cells.
addEventListener("DOMContentLoaded", () => {
  function text(cell) {
    const value = cell.querySelector(".value");
    const interval = cell.querySelector(".interval");
    const shown = value ? value.textContent + (interval ? ` (${interval.textContent})` : "") : cell.textContent;
    return shown.replace(/\s+/g, " ").trim();
  }

  function title(head) {
    const button = head.querySelector("button");
    const unit = head.querySelector(".unit");
    return button ? [button.textContent.trim(), unit ? unit.textContent.trim() : ""].filter(Boolean).join(", ") : text(head);
  }

  function rows(table) {
    return [...table.rows].map((row) => [...row.cells].map(row.parentElement === table.tHead ? title : text).join("\t"));
  }

  // Older browsers, and pages without a secure origin, have no clipboard object.
  function copyThroughField(content) {
    const field = document.createElement("textarea");
    field.value = content;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("the browser does not let the page copy"));
  }

  document.querySelectorAll("button[data-copies]").forEach((button) => {
    const label = button.textContent;
    button.addEventListener("click", () => {
      const content = rows(document.getElementById(button.dataset.copies)).join("\n") + "\n";
      const copied = navigator.clipboard
        ? navigator.clipboard.writeText(content).catch(() => copyThroughField(content))
        : copyThroughField(content);
      copied.then(
        () => (button.textContent = "Copied"),
        () => (button.textContent = "Not allowed here"),
      );
      setTimeout(() => (button.textContent = label), 2000);
    });
  });
});
