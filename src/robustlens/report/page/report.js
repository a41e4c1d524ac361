"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const touch = matchMedia("(pointer: coarse)").matches;
  const hidden = new Set();
  const panels = new Map(); // plot element -> the panel that it shows

  // -- plots ---------------------------------------------------------------------------------------

  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: touch ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // named one by one: none may leave the page
    showSendToCloud: false,
    showTips: false,
  };

  function css(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function seeThrough(colour, alpha) {
    const [r, g, b] = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  }

  function painted(trace) {
    const dark = root.dataset.theme === "dark";
    const colour = data.styles[trace.meta.style][dark ? 1 : 0];
    const shown = { ...trace, visible: isVisible(trace) };
    if (trace.meta.role === "band") {
      shown.fillcolor = seeThrough(colour, dark ? 0.2 : 0.14);
      return shown;
    }
    if (trace.line) {
      shown.line = { ...trace.line, color: trace.meta.role === "thread" ? seeThrough(colour, 0.45) : colour };
    }
    if (trace.marker) {
      shown.marker = { ...trace.marker, color: colour, line: { color: css("--surface"), width: 1 } };
    }
    if (trace.error_y) {
      shown.error_y = { ...trace.error_y, color: colour };
    }
    return shown;
  }

  function axis(own) {
    const line = css("--line");
    const muted = css("--muted");
    return {
      automargin: true,
      gridcolor: line,
      zerolinecolor: css("--zero"),
      zerolinewidth: 1,
      linecolor: line,
      tickfont: { color: muted, size: 11 },
      ...own,
      title: { ...own.title, font: { color: muted, size: 12 }, standoff: 8 },
    };
  }

  // The axes of a surface in space.
  function space(own) {
    const each = ([name, one]) => [name, { ...axis(one), automargin: undefined, backgroundcolor: "rgba(0,0,0,0)" }];
    return {
      ...Object.fromEntries(Object.entries(own).map(each)),
      aspectmode: "cube",
      dragmode: touch ? false : "turntable",
    };
  }

  function layout(panel) {
    const own = panel.layout;
    const font = getComputedStyle(document.body).fontFamily;
    const quiet = css("--muted");
    return {
      ...own,
      autosize: true,
      margin: { l: 48, r: 10, t: own.annotations ? 20 : 8, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      dragmode: touch ? false : "zoom", // a finger that scrolls the page must not zoom a plot
      font: { family: font, color: css("--ink"), size: 12 },
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink") }, namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: css("--ink") },
      xaxis: axis(own.xaxis),
      yaxis: axis(own.yaxis),
      ...(own.scene ? { scene: space(own.scene) } : {}),
      shapes: (own.shapes || []).map((shape) => ({ ...shape, line: { color: quiet, width: 1, dash: "dot" } })),
      annotations: (own.annotations || []).map((note) => ({ ...note, font: { color: quiet, size: 10 } })),
    };
  }

  function draw(plot) {
    const panel = panels.get(plot);
    Plotly.react(plot, panel.data.map(painted), layout(panel), {
      ...config,
      toImageButtonOptions: { format: "svg", filename: plot.dataset.file },
    });
    plot.dataset.drawn = "yes";
  }

  function isVisible(trace) {
    return trace.meta.of.some((network) => !hidden.has(network));
  }

  // Puts one view of a figure on the page; plots that exist already change in place.
  function show(card, place) {
    const views = data.figures[card.dataset.figure];
    const grid = card.querySelector(".panels");
    const view = views[place];
    while (grid.children.length > view.panels.length) {
      const plot = grid.lastElementChild.querySelector(".plot");
      Plotly.purge(plot);
      panels.delete(plot);
      grid.lastElementChild.remove();
    }
    // All frames first: the grid gives a plot its width by how many there are.
    while (grid.children.length < view.panels.length) {
      const frame = document.createElement("figure");
      frame.append(document.createElement("figcaption"), document.createElement("div"));
      frame.className = "panel";
      frame.lastChild.className = "plot";
      frame.lastChild.setAttribute("role", "img");
      grid.append(frame);
    }
    view.panels.forEach((panel, number) => {
      const [caption, plot] = grid.children[number].children;
      caption.textContent = panel.title;
      plot.dataset.file = `${card.dataset.figure}-${number + 1}`;
      plot.setAttribute("aria-label", `${card.querySelector("h3").textContent}: ${panel.title}`);
      panels.set(plot, panel);
      draw(plot);
    });
    const links = card.querySelector(".drawings");
    links.hidden = view.file === null;
    links.querySelectorAll("a").forEach((link) => {
      link.href = `figures/${view.file}.${link.dataset.kind}`;
    });
  }

  const cards = [...document.querySelectorAll("[data-figure]")];
  cards.forEach((card) => {
    const select = card.querySelector("select");
    if (select) {
      select.addEventListener("change", () => show(card, Number(select.value)));
    }
  });

  // One figure at a time, so that the page answers while it draws.
  function drawNext(place) {
    if (place === cards.length) {
      root.dataset.drawn = String(place);
      return;
    }
    show(cards[place], 0);
    setTimeout(() => drawNext(place + 1), 0);
  }
  drawNext(0);

  // -- theme ---------------------------------------------------------------------------------------

  const button = document.getElementById("theme");

  function setTheme(theme) {
    root.dataset.theme = theme;
    button.setAttribute("aria-label", theme === "dark" ? "Switch to light" : "Switch to dark");
    [...panels.keys()].forEach(draw);
  }

  button.addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    setTheme(theme);
    try {
      localStorage.setItem("robustlens-theme", theme);
    } catch (error) {
      // It holds for this visit only.
    }
  });

  // Paper is light and narrow: the page takes that form first, so that the plots are drawn to fit.
  let before = null; // what printing changed
  addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("details:not([open]):not(.run)")];
    before = { theme: root.dataset.theme, closed };
    closed.forEach((details) => (details.open = true));
    root.dataset.printing = "yes";
    setTheme("light");
  });
  addEventListener("afterprint", () => {
    before.closed.forEach((details) => (details.open = false));
    delete root.dataset.printing;
    setTheme(before.theme);
  });

  // -- one legend for all plots --------------------------------------------------------------------

  const chips = [...document.querySelectorAll(".chip[data-network]")];
  const all = document.getElementById("show-all");

  function hide(networks) {
    hidden.clear();
    networks.forEach((network) => hidden.add(network));
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(!hidden.has(Number(chip.dataset.network)))));
    all.hidden = hidden.size === 0;
    panels.forEach((panel, plot) => Plotly.restyle(plot, { visible: panel.data.map(isVisible) }));
    document.querySelectorAll("[data-network-of]").forEach((cell) => (cell.hidden = hidden.has(Number(cell.dataset.networkOf))));
  }

  chips.forEach((chip) => {
    const network = Number(chip.dataset.network);
    chip.addEventListener("click", () => {
      const others = [...hidden].filter((other) => other !== network);
      hide(hidden.has(network) ? others : [...hidden, network]);
    });
    chip.addEventListener("dblclick", () => {
      hide(chips.map((other) => Number(other.dataset.network)).filter((other) => other !== network));
    });
  });
  all.addEventListener("click", () => hide([]));

  // -- the table sorts -----------------------------------------------------------------------------

  const table = document.getElementById("headline");
  const heads = [...table.tHead.rows[0].cells];

  function key(row, column) {
    const cell = row.querySelector(`[data-column="${CSS.escape(column)}"]`);
    return cell && cell.dataset.value !== "" ? cell.dataset.order || cell.dataset.value : null;
  }

  function sort(head) {
    const numeric = head.dataset.numeric === "yes";
    const first = numeric && head.dataset.key !== "eps" ? "descending" : "ascending"; // best first
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, head.dataset.key), row]);
    rows.sort(([one], [other]) => {
      if (one === null || other === null) {
        return (one === null) - (other === null); // missing numbers stay at the end
      }
      return sign * (numeric ? one - other : one.localeCompare(other, "en"));
    });
    heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  heads.forEach((head) => head.querySelector("button").addEventListener("click", () => sort(head)));

  // -- attacks on test or on training images --------------------------------------------------------

  const images = document.getElementById("images");
  if (images) {
    images.addEventListener("change", () => {
      document.querySelectorAll(".attacked").forEach((split) => (split.hidden = split.dataset.images !== images.value));
    });
  }

  // -- the contents of a phone, and claims that a link names -----------------------------------------

  const menu = document.getElementById("menu");
  const fold = (open) => menu.setAttribute("aria-expanded", String(open));
  menu.addEventListener("click", () => fold(menu.getAttribute("aria-expanded") !== "true"));
  document.getElementById("contents").addEventListener("click", () => fold(false));
  addEventListener("keydown", (event) => event.key === "Escape" && fold(false));

  // -- a phone: figures open by their titles ---------------------------------------------------------

  function unfold(card, open) {
    card.classList.toggle("open", open);
    card.querySelector(".fold").setAttribute("aria-expanded", String(open));
    dispatchEvent(new Event("resize")); // a plot that was hidden has no size
  }

  if (matchMedia("(max-width: 640px)").matches) {
    document.querySelectorAll(".plots article").forEach((card) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "fold";
      button.append(...card.querySelector("h3").childNodes);
      card.querySelector("h3").append(button);
      card.classList.add("folds");
      button.addEventListener("click", () => unfold(card, !card.classList.contains("open")));
      unfold(card, false);
    });
  }

  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
    }
    if (target?.classList.contains("folds")) {
      unfold(target, true);
    }
  }
  addEventListener("hashchange", openTarget);
  openTarget();

  // -- where we are --------------------------------------------------------------------------------

  const places = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver(
    (entries) => {
      entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
        places.forEach((link) => link.removeAttribute("aria-current"));
        places.get(entry.target.id).setAttribute("aria-current", "true");
      });
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  places.forEach((link, id) => watcher.observe(document.getElementById(id)));
})();
