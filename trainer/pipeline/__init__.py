"""From raw files to a token folder that can be answered for: cleaned, de-duplicated, counted at every stage.

    plan     which pieces of which files each unit of work reads           (sources)
    clean    per unit, in parallel: read, identify, judge, mask, hash      (readers, language, rules, pii)
    choose   over all units: exact and near duplicates, what is held out   (near)
    encode   per part, in parallel: texts to tokens                        (encode)
    finish   one token folder, its manifest and its data card              (card)

Units and parts are files in a work folder, complete or absent, and do not depend on the number of
processes: a build that was killed goes on from them, and ends with the same hash.
"""
