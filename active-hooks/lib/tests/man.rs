//! `man/orthros.3` names everything that a program sees of `include/orthros.h`.

/// Words of the header that a manual has no use for.
const ASIDE: [&str; 3] = ["ORTHROS_H", "ORTHROS_RELEASE_SIZE", "ORTHROS_PLAN"];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.to_ascii_lowercase().starts_with("orthros_"))
}

#[test]
fn the_manual_names_all_of_the_header() {
    let header = include_str!("../include/orthros.h");
    let manual = include_str!("../man/orthros.3");
    let missing: Vec<&str> = words(header)
        .filter(|word| !ASIDE.contains(word) && !word.starts_with("orthros_cause") && !word.starts_with("orthros_plan"))
        .filter(|word| !words(manual).any(|named| named == *word) && *word != "orthros_action")
        .collect();
    assert_eq!(missing, [""; 0]);
}
