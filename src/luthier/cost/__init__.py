"""What a run costs: said before (forecast), measured while (meter), held against limits (budget).

    prices.yaml ──load_prices──▶ Prices ──forecast(seconds, machine)──▶ money, with its basis in words
    Meter ──▶ events ──actual──▶ what it took ──error──▶ how good the forecast was

Money is time × machines × a dated price, and nothing else. A price that is not known is said to be not known.
"""
