//! What somebody who wrote a name or a key that there is not may have meant. Pure.

/// The one of `known` that `name` is a slip of the hand away from.
pub(super) fn alike<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .filter_map(|known| Some((slips(name, known)?, known)))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

/// How many slips of the hand make one of the other; `None` where these are two different words. What two names have in common in
/// whole words (`_timeout`, `.example.com`) makes them no more alike.
fn slips(one: &str, other: &str) -> Option<usize> {
    let words = |text| -> Vec<&str> { str::split(text, ['_', '-', '.']).collect() };
    let (one, other) = (words(one), words(other));
    let alike = |(one, other): &(&&str, &&str)| one == other;
    let front = one.iter().zip(&other).take_while(alike).count();
    let (one, other) = (&one[front..], &other[front..]);
    let back = one.iter().rev().zip(other.iter().rev());
    let back = back.take_while(alike).count();
    let [one, other] = [one, other].map(|words| words[..words.len() - back].join("_"));
    let slips = strsim::osa_distance(&one, &other);
    let near = slips <= 1 + one.len().min(other.len()) / 4;
    (near && slips * 2 <= one.len().max(other.len())).then_some(slips)
}

/// For whoever named something that there is not: what is near, or what there is.
pub(super) fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    const TOLD: usize = 8;
    if let Some(near) = alike(name, known.clone()) {
        return format!("; did you mean `{near}`?");
    }
    let first: Vec<&str> = known.clone().take(TOLD).collect();
    match known.count() {
        0 => "; there is none".to_owned(),
        all if all > TOLD => format!("; there are: {} and {} more", first.join(", "), all - TOLD),
        _ => format!("; there are: {}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_near() {
        let keys =
            "idle_timeout ping_timeout settle_timeout max_visitors keep_alive host two a.test";
        for (name, meant) in [
            ("idel_timeout", Some("idle_timeout")),
            ("ping_timout", Some("ping_timeout")),
            ("keepalive", Some("keep_alive")),
            ("max_visitor", Some("max_visitors")),
            ("tow", Some("two")),
            ("hosts", Some("host")),
            ("client_timeout", None),
            ("server_timeout", None),
            ("pingtime", None),
            ("b.test", None),
            ("visitors", None),
        ] {
            assert_eq!(alike(name, keys.split(' ')), meant, "{name}");
        }
    }
}
