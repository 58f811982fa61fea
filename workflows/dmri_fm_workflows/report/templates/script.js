(function () {
  var links = Array.prototype.slice.call(document.querySelectorAll("nav a[href^='#']"));
  var places = links.map(function (a) {
    return document.getElementById(decodeURIComponent(a.getAttribute("href").slice(1)));
  });
  function mark() {
    var current = 0;
    places.forEach(function (place, i) {
      if (place && place.getBoundingClientRect().top < Math.min(window.innerHeight * 0.25, 200)) { current = i; }
    });
    links.forEach(function (a, i) {
      a.classList.toggle("current", i === current);
      if (i === current) { a.setAttribute("aria-current", "true"); } else { a.removeAttribute("aria-current"); }
    });
  }
  window.addEventListener("scroll", mark, { passive: true });
  mark();
  // In print both images of a pair are shown: the figure as it is, and its upper layer alone.
  document.querySelectorAll("img.before").forEach(function (image) {
    image.src = image.parentNode.querySelector("object").data + "#before";
    image.hidden = false;
  });
  document.querySelectorAll("button[data-copy]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      var words = document.getElementById(button.getAttribute("data-copy")).innerText;
      function done() { button.textContent = "Copied"; }
      function select() {
        var range = document.createRange();
        range.selectNodeContents(document.getElementById(button.getAttribute("data-copy")));
        var selection = window.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
        button.textContent = "Selected: copy with Ctrl+C";
      }
      if (navigator.clipboard) { navigator.clipboard.writeText(words).then(done, select); } else { select(); }
    });
  });
})();
