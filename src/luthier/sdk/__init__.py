"""App's verbs over HTTP. Needs 'luthier[client]' and a server (`luthier server`); imports nothing of what the server is made of.

    with luthier.Client("https://luthier.company", key) as client:
        job = client.submit("recipes.run", Path("recipe.yaml"))     # at once
        done = client.wait(job)                                     # what App.recipes.run tells, as plain JSON
        client.records.show(done["release"])                        # nouns and verbs as App has them

    async with luthier.AsyncClient("https://luthier.company", key) as client:
        await client.recipes.run(Path("recipe.yaml"))

flows     what is asked and in which order, once, as generators that know no network
drive     those generators over httpx, with and without await
files     what goes with a recipe
"""

from __future__ import annotations

from .client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
