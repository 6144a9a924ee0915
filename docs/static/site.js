/* What the theme leaves out for those who read with a keyboard or by ear. */
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
  for (const wide of document.querySelectorAll("pre, .table-wrapper")) wide.tabIndex = 0; // they scroll sideways
  for (const parameters of document.querySelectorAll("dt dl")) {
    parameters.setAttribute("role", "list"); // of a long signature, which has no terms
    for (const one of parameters.children) one.setAttribute("role", "listitem");
  }
});
