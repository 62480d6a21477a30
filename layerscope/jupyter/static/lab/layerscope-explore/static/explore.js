// Runs the notebook that `layerscope explore` opens, up to the explorer: once for each kernel. Which
// notebook that is, if any, the server says; an address can't.
(() => {
  const name = "layerscope-explore";

  const wanted = () => {
    const page = document.getElementById("jupyter-config-data");
    return page ? JSON.parse(page.textContent).layerscopeNotebook : "";
  };

  const until = async (found) => {
    for (;;) {
      const what = found();
      if (what) return what;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };

  const opened = (app, path) => () =>
    [...app.shell.widgets("main")].find((each) => each.context?.path === path && each.content?.widgets);

  const tags = (cell) => cell.model.getMetadata("tags") || [];

  const run = async (app, path) => {
    const panel = await until(opened(app, path));
    await panel.context.ready;
    await panel.sessionContext.ready;
    const kernel = await until(() => panel.sessionContext.session?.kernel?.id);
    const at = panel.content.widgets.findIndex((cell) => tags(cell).includes("explorer"));
    // A page that is loaded again still has what runs.
    if (at < 0 || localStorage.getItem(name) === kernel) return;
    localStorage.setItem(name, kernel);
    app.shell.collapseLeft();
    app.shell.activateById(panel.id);
    panel.content.activeCellIndex = at;
    const cell = panel.content.widgets[at];
    cell.node.scrollIntoView();
    await app.commands.execute("notebook:run-all-above");
    panel.content.activeCellIndex = at;
    await app.commands.execute("notebook:run-cell");
    cell.node.scrollIntoView();
  };

  const plugin = {
    id: `${name}:run`,
    description: "Runs the notebook that layerscope explore opens, up to the explorer.",
    autoStart: true,
    activate: (app) => {
      const path = wanted();
      if (path) app.restored.then(() => run(app, path));
    },
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB[name] = {
    init: () => {},
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();
