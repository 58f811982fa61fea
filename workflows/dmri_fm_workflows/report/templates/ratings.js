(function () {
  // Ratings of scans. The browser keeps them by the output folder, pages of which share them where
  // it allows that; the button saves all of them as a table.
  var bar = document.getElementById("ratings");
  if (!bar) { return; }
  var key = "ratings of " + new URL(bar.dataset.root || ".", window.location.href).pathname, ratings = {};
  try { ratings = JSON.parse(window.localStorage.getItem(key)) || {}; } catch (error) { ratings = {}; }
  var rater = bar.querySelector("input");
  function keep(scan, entry) {
    entry.rater = rater.value;
    entry.rated = new Date().toISOString();
    ratings[scan] = entry;
    if (!entry.rating && !entry.comment) { delete ratings[scan]; }
    try { window.localStorage.setItem(key, JSON.stringify(ratings)); } catch (error) { /* kept by the page alone */ }
    count();
  }
  function count() { bar.querySelector("output").textContent = Object.keys(ratings).length; }
  function make(tag, scan, name, attributes) {
    var field = Object.assign(document.createElement(tag), attributes);
    field.setAttribute("aria-label", name + " of " + scan);
    return field;
  }
  document.querySelectorAll("[data-scan]").forEach(function (cell) {
    var scan = cell.dataset.scan, known = ratings[scan] || {};
    var choice = make("select", scan, "Rating"), words = make("input", scan, "Comment", { placeholder: "comment" });
    ["", "excellent", "acceptable", "poor", "exclude"].forEach(function (word) { choice.add(new Option(word || "not rated", word)); });
    choice.value = known.rating || "";
    words.value = known.comment || "";
    cell.append(choice, words);
    cell.addEventListener("change", function () { keep(scan, { rating: choice.value, comment: words.value.trim() }); });
  });
  document.querySelectorAll(".rating").forEach(function (element) { element.hidden = false; });
  rater.value = (Object.values(ratings)[0] || {}).rater || "";
  bar.querySelector("button").addEventListener("click", function () {
    var columns = ["rating", "comment", "rater", "rated"];
    var rows = Object.keys(ratings).sort().map(function (scan) {
      return [scan].concat(columns.map(function (c) { return (ratings[scan][c] || "").replace(/\s+/g, " ") || "n/a"; }));
    });
    var text = [["scan_id"].concat(columns)].concat(rows).map(function (row) { return row.join("\t") + "\n"; }).join("");
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values" }));
    link.download = "ratings.tsv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  count();
})();
