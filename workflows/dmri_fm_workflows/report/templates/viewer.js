(async function () {
  var volumes = JSON.parse(document.getElementById("volumes").textContent), loaded = new Map();
  var field = function (id) { return document.getElementById(id); };
  var place = field("place"), background = field("background"), map = field("map");
  if (!document.createElement("canvas").getContext("webgl2")) {
    place.textContent = "This browser has no WebGL 2, which the viewer draws with: allow hardware acceleration, or take another browser.";
    return;
  }
  if (!volumes.length) { place.textContent = "The outputs that the viewer shows are not there."; return; }
  map.add(new Option("none", ""));
  volumes.forEach(function (volume, number) {
    (volume.is_background ? background : map).add(new Option(volume.title, number));
  });
  var nv = new niivue.Niivue({
    logLevel: "error", loadingText: "", backColor: [0, 0, 0, 1], isColorbar: true, show3Dcrosshair: true,
    dragAndDropEnabled: false, viewModeHotKey: "none", isRadiologicalConvention: false, sagittalNoseLeft: false, isNearestInterpolation: true,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, multiplanarLayout: layout(), crosshairColor: [1, 0.6, 0, 1], crosshairWidth: 0.3,
  });
  function layout() { return window.innerWidth > 700 ? niivue.MULTIPLANAR_TYPE.GRID : niivue.MULTIPLANAR_TYPE.AUTO; }
  window.addEventListener("resize", function () { nv.setMultiplanarLayout(layout()); });
  nv.onLocationChange = function (at) {
    var words = [["x", 0], ["y", 1], ["z", 2]].map(function (axis) { return axis[0] + " = " + at.mm[axis[1]].toFixed(1); }).join(", ") + " mm";
    chosen().forEach(function (number, layer) {
      var volume = volumes[number], value = at.values[layer] && at.values[layer].value;
      if (!volume.colours || value === undefined) { return; }
      var step = (volume.high - volume.low) / 254;
      // Code 0 of a map is outside the brain.
      var isOutside = !volume.is_background && value < volume.low - step / 2;
      words += " · " + volume.title + ": " + (isOutside ? "outside" : (Number(value).toPrecision(3) + " " + volume.units).trim());
    });
    place.textContent = words;
  };
  var steps = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  field("slices").addEventListener("keydown", function (event) {
    if (!steps[event.key]) { return; }
    event.preventDefault();
    event.stopImmediatePropagation();
    nv.moveCrosshairInVox.apply(nv, steps[event.key]);
  }, true);
  function chosen() {
    return [background.value, map.value].filter(function (value) { return value !== ""; }).map(Number);
  }
  async function load(number) {
    if (!loaded.has(number)) {
      var volume = volumes[number];
      var image = await niivue.NVImage.loadFromBase64({ base64: volume.content, name: "volume" + number + ".nii.gz" });
      if (volume.colours) {
        image.colormap = volume.colours;
        // Half a step below the lowest value: one that rounding lowers would be transparent.
        image.cal_min = volume.is_background ? volume.low : volume.low - (volume.high - volume.low) / 508;
        image.cal_max = volume.high;
      }
      image.colorbarVisible = Boolean(volume.colours) && !volume.is_background;
      loaded.set(number, image);
    }
    return loaded.get(number);
  }
  async function show() {
    var images = await Promise.all(chosen().map(load));
    nv.volumes.slice().forEach(function (image) { nv.removeVolume(image); });
    images.forEach(function (image, layer) {
      image.opacity = layer ? field("opacity").value / 100 : 1;
      nv.addVolume(image);
    });
    nv.updateGLVolume();
    nv.createOnLocationChange();
    document.documentElement.dataset.shown = chosen().map(function (n) { return volumes[n].title; }).join(" + ");
  }
  await nv.attachToCanvas(field("slices"));
  map.selectedIndex = Math.min(1, map.options.length - 1);
  nv.setSliceType(Number(field("view").value));
  [background, map].forEach(function (choice) { choice.addEventListener("change", show); });
  field("opacity").addEventListener("input", function () { if (nv.volumes.length > 1) { nv.setOpacity(1, this.value / 100); } });
  field("view").addEventListener("change", function () { nv.setSliceType(Number(this.value)); });
  await show();
})();
