"""The report of `hedge bench run` as one page that needs nothing else: no network, no script."""
