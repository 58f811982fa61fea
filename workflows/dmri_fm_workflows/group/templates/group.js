(function () {
  // Tables: a button in each heading sorts by its column; cells without a value stay last.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0], collator = new Intl.Collator("en", { numeric: true });
    table.querySelectorAll("thead th").forEach(function (heading) {
      if (heading.classList.contains("rating")) { return; }
      var button = document.createElement("button");
      button.type = "button";
      button.append(heading.firstChild);
      heading.append(button);
      button.addEventListener("click", function () {
        var sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        table.querySelectorAll("[aria-sort]").forEach(function (h) { h.removeAttribute("aria-sort"); });
        heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        Array.from(body.rows, function (row) {
          var text = row.cells[heading.cellIndex].innerText.trim();
          return { row: row, text: text, number: parseFloat(text), missing: text === "" || text === "n/a" };
        }).sort(function (a, b) {
          if (a.missing || b.missing) { return a.missing - b.missing; }
          var order = isNaN(a.number) || isNaN(b.number) ? collator.compare(a.text, b.text) : a.number - b.number;
          return sign * order;
        }).forEach(function (entry) { body.append(entry.row); });
      });
    });
  });
  // Charts: the point under the pointer is named, and marked in every panel; a click opens its page.
  document.querySelectorAll(".chart[data-points]").forEach(function (chart) {
    var data = JSON.parse(chart.dataset.points), svg = chart.querySelector("svg"), found = null;
    var ring = document.createElementNS("http://www.w3.org/2000/svg", "path"), tip = document.createElement("div");
    ring.setAttribute("class", "ring");
    svg.append(ring);
    tip.className = "tip";
    chart.append(tip);
    function place(event) {
      return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    }
    function look(event) {
      var at = place(event), nearest = 64;
      found = null;
      data.panels.forEach(function (panel) {
        panel.points.forEach(function (p) {
          var distance = (p[0] - at.x) * (p[0] - at.x) + (p[1] - at.y) * (p[1] - at.y);
          if (distance < nearest) { nearest = distance; found = { scan: p[2], panel: panel, value: p[3] }; }
        });
      });
      tip.hidden = !found;
      svg.style.cursor = found && data.links[found.scan] ? "pointer" : "";
      ring.setAttribute("d", !found ? "" : data.panels.map(function (panel) {
        return panel.points.filter(function (p) { return p[2] === found.scan; }).map(function (p) {
          return "M" + (p[0] - 5) + " " + p[1] + "a5 5 0 1 0 10 0a5 5 0 1 0 -10 0";
        }).join("");
      }).join(""));
      if (!found) { return; }
      tip.textContent = data.names[found.scan] + "\n" + found.panel.label + ": " + found.value + " " + found.panel.unit;
      var box = chart.getBoundingClientRect(), x = Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth);
      tip.style.left = chart.scrollLeft + Math.max(0, x) + "px";
      tip.style.top = event.clientY - box.top + 14 + "px";
    }
    svg.addEventListener("pointermove", look);
    svg.addEventListener("pointerleave", function () { found = null; tip.hidden = true; ring.setAttribute("d", ""); });
    svg.addEventListener("click", function (event) {
      look(event);
      if (found && data.links[found.scan]) { window.location.href = data.links[found.scan]; }
    });
    tip.hidden = true;
  });
})();
