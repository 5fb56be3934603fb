"""View whole CT series in the browser, served from this machine only."""

from ldct_denoise.view.server import ViewServer, serve_view

__all__ = ["ViewServer", "serve_view"]
