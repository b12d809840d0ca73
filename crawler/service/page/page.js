// Keeps the page live: the server sends each section that has changed, as HTML of its own making.
"use strict";
const main = document.getElementById("main");
const stale = document.getElementById("stale");
const kept = {};

function show(sections) {
  for (const [name, html] of Object.entries(sections)) {
    const place = document.getElementById("live-" + name);
    if (!place) continue;
    // whoever is about to press a button there is not disturbed, and shown it afterwards
    if (place.contains(document.activeElement)) {
      kept[name] = html;
    } else {
      delete kept[name];
      place.innerHTML = html;
    }
  }
}

function follow() {
  const source = new EventSource("events?version=" + main.dataset.version);
  source.addEventListener("sections", (event) => {
    show(JSON.parse(event.data));
    main.dataset.version = event.lastEventId;
    stale.hidden = true;
  });
  source.addEventListener("error", () => {
    stale.hidden = false;
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
  });
}

main.addEventListener("focusout", () => setTimeout(() => show(kept)));
follow();
