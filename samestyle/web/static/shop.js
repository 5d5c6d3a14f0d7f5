"use strict";
// Photos may be dropped or pasted anywhere on a page, and are shown before they are sent.

for (const form of document.querySelectorAll("form.photo")) {
  const input = form.querySelector("input[type=file]");
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
}

document.documentElement.classList.add("scripted");
// The form that is in sight; where there is none, that of the header, opened.
const formInSight = () => {
  const camera = document.querySelector("details.camera");
  const own = document.querySelector("main form.photo");
  if (!camera.open && own && own.offsetParent) return own;
  camera.open = true;
  return camera.querySelector("form.photo");
};
const take = (files) => {
  const form = formInSight();
  form.take(files);
  form.querySelector("input[type=text]").focus();
};
const unmark = () => document.querySelectorAll(".drop.over").forEach((drop) => drop.classList.remove("over"));

document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();  // or the browser would leave the page for the photo
  formInSight().querySelector(".drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) unmark(); });
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  unmark();
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("details.camera[open]");
  if (event.key !== "Escape" || !open) return;
  open.open = false;
  open.querySelector("summary").focus();
});
