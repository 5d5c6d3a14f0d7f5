"use strict";
// Photos may be dropped on a photo form, or pasted anywhere, and are shown before they are sent.

for (const form of document.querySelectorAll("form.photo")) {
  const input = form.querySelector("input[type=file]");
  const drop = form.querySelector(".drop");
  const note = form.querySelector(".note");
  const preview = form.querySelector(".preview");
  const drawn = preview.src;
  const hint = note.textContent;
  const most = Number(form.dataset.maxBytes);

  const show = () => {
    const file = input.files[0];
    const large = file && file.size > most;
    input.setCustomValidity(large ? `This photo has ${(file.size / 1e6).toFixed(1)} MB, at most ${most / 1e6} MB are taken.` : "");
    note.textContent = large ? input.validationMessage : file ? file.name : hint;
    note.classList.toggle("bad", Boolean(large));
    preview.src = drawn;
    if (!file || large) return;
    const reader = new FileReader();
    reader.onload = () => { preview.src = reader.result; };
    reader.readAsDataURL(file);
  };
  form.take = (files) => {
    if (!files.length) return;
    const one = new DataTransfer();
    one.items.add(files[0]);
    input.files = one.files;
    show();
  };
  preview.onerror = () => { preview.onerror = null; preview.src = drawn; };
  input.addEventListener("change", show);
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    form.take(event.dataTransfer.files);
  });
}

document.documentElement.classList.add("scripted");
document.addEventListener("paste", (event) => {
  const form = document.querySelector("details.camera[open] form.photo") || document.querySelector("main form.photo");
  if (form && event.clipboardData.files.length) form.take(event.clipboardData.files);
});
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("details.camera[open]");
  if (event.key !== "Escape" || !open) return;
  open.open = false;
  open.querySelector("summary").focus();
});
