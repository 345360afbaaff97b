(function () {
  "use strict";
  // map.js
  var figure = document.getElementById("ID");
  var data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  var layer = figure.querySelector("select.layer"), head = figure.querySelector("select.head");
  var canvas = figure.querySelector("canvas"), out = figure.querySelector("output");
  var n = data.tokens.length, cell = Math.max(1, Math.min(28, Math.floor(640 / n)));
  var margin = cell >= 14 ? 96 : 0, side = margin + n * cell;  // room for the tokens' names, where they are legible
  var drawing = canvas.getContext("2d"), map = null;
  function bytes(text) {
    var raw = atob(text), found = new Uint8Array(raw.length);
    for (var i = 0; i < raw.length; i++) { found[i] = raw.charCodeAt(i); }
    return found;
  }
  function draw() {
    map = bytes(data.maps[layer.value][head.value]);
    var small = document.createElement("canvas");
    small.width = small.height = n;
    var image = new ImageData(n, n);
    for (var i = 0; i < n * n; i++) {
      var c = color(data.ramp, map[i] / 255);
      image.data.set([c[0], c[1], c[2], 255], 4 * i);
    }
    small.getContext("2d").putImageData(image, 0, 0);
    canvas.width = canvas.height = side;
    drawing.clearRect(0, 0, side, side);  // behind the names lies the page, light or dark
    drawing.imageSmoothingEnabled = false;
    drawing.drawImage(small, margin, margin, n * cell, n * cell);
    if (margin) { write_names(drawing, data.tokens, margin, cell); }
    var who = "layer " + layer.value + ", " + head.selectedOptions[0].text;
    canvas.setAttribute("aria-label", "Attention, " + who + ". " + most());
    figure.dataset.drawn = layer.value + "/" + head.value;
    out.textContent = most();
  }
  function say(i, j) {
    var from = "\u201c" + data.tokens[i] + "\u201d (" + i + ")";
    var to = "\u201c" + data.tokens[j] + "\u201d (" + j + ")";
    return from + " looks at " + to + ": " + (map[i * n + j] / 255).toFixed(2);
  }
  function most() {
    var best = 0;
    for (var i = 1; i < n * n; i++) { if (map[i] > map[best]) { best = i; } }
    return "Largest: " + say(Math.floor(best / n), best % n);
  }
  function heads() {
    var names = Object.keys(data.maps[layer.value]), kept = head.value;
    head.textContent = "";
    names.forEach(function (name) {
      var option = document.createElement("option");
      option.value = name;
      option.textContent = name === "mean" ? "mean of all heads" : "head " + name;
      head.appendChild(option);
    });
    head.value = names.indexOf(kept) < 0 ? names[0] : kept;
    draw();
  }
  canvas.addEventListener("mousemove", function (event) {
    var box = canvas.getBoundingClientRect();
    var j = Math.floor(((event.clientX - box.left) / box.width * side - margin) / cell);
    var i = Math.floor(((event.clientY - box.top) / box.height * side - margin) / cell);
    if (i >= 0 && j >= 0 && i < n && j < n) { out.textContent = say(i, j); }
  });
  canvas.addEventListener("mouseleave", function () { out.textContent = most(); });
  layer.addEventListener("change", heads);
  head.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  layer.value = data.layer;
  heads();
  if (data.head in data.maps[data.layer]) { head.value = data.head; draw(); }
}());
