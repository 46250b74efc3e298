"""Where splits and images come from: a split of one's own, an earlier set, licences, a card."""
