// Counts characters while a person types, and refuses a photo that is too large before it is
// sent, so that the entry stays in the form. Without this script, the server checks both.
"use strict";

const characters = (count) => (count === 1 ? "1 character" : `${count} characters`);
const megabytes = (bytes) => `${(bytes / 1024 / 1024).toFixed(1)} MB`;

for (const field of document.querySelectorAll("[data-characters]")) {
  const limit = Number(field.dataset.characters);
  const counter = document.createElement("p");
  counter.className = "counter";
  field.after(counter);
  const count = () => {
    // Counts as the server does: code points, without leading and trailing spaces.
    const left = limit - [...field.value.trim()].length;
    counter.textContent = `${characters(Math.abs(left))} ${left < 0 ? "too many" : "left"}`;
    counter.classList.toggle("too-many", left < 0);
  };
  field.addEventListener("input", count);
  count();
}

for (const field of document.querySelectorAll("[data-bytes]")) {
  const limit = Number(field.dataset.bytes);
  field.addEventListener("change", () => {
    const size = field.files[0]?.size ?? 0;
    field.setCustomValidity(
      size > limit ? `This photo has ${megabytes(size)}. Choose one of at most ${megabytes(limit)}.` : "",
    );
    field.reportValidity();
  });
}
