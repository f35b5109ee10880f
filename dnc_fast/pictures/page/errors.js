// Errors are shown on the page, since nobody looks at the console.

"use strict";
window.onerror = (message, source, line) => {
  const errors = document.getElementById("errors");
  errors.hidden = false;
  errors.textContent += `${message} (line ${line})\n`;
};
