// Pictures that are dropped on the page, or pasted into it.

/** Call `take` with each; the view shows where one may be dropped. */
export function receivePictures(view, take, signal) {
  let depth = 0; // of elements that a dragged file is over

  function drag(event, by) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    depth += by;
    view.classList.toggle("dropping", depth > 0);
  }

  window.addEventListener("dragenter", (event) => drag(event, +1), { signal });
  window.addEventListener("dragleave", (event) => drag(event, -1), { signal });
  window.addEventListener("dragover", (event) => drag(event, 0), { signal });
  window.addEventListener("drop", (event) => {
    drag(event, 0);
    depth = 0;
    view.classList.remove("dropping");
    take(event.dataTransfer?.files[0]);
  }, { signal });
  window.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  }, { signal });
}
