"""An OpenAI-compatible server of bundles, and a page in the browser. Needs the extra `serve`."""
