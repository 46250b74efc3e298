"""From a plan to shards: image bytes, tars, and the engines that pack them."""
