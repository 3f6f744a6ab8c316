//! Files of the Rust core import each other in one direction only: no file imports, directly or through other files, a file that
//! imports it. Re-exports (`pub use`) of a module's own files are no imports: who names such an item imports its file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const CRATES: [&str; 7] = [
    "capture",
    "layers",
    "linux-sys",
    "log",
    "page-server",
    "pager",
    "protocol",
];

/// A module by its path within the crate. The crate's root has an empty path.
type Module = Vec<String>;

/// The text of each file of a crate, by module.
type Sources = BTreeMap<Module, String>;

#[test]
fn no_file_imports_a_file_that_imports_it() {
    for name in CRATES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
        let mut sources = Sources::new();
        read(&folder, &mut Vec::new(), &mut sources);
        assert!(!sources.is_empty(), "crates/{name} has files");
        let circle = circle(&imports(&sources));
        assert_eq!(circle, None, "crates/{name} has files that import each other");
    }
}

#[test]
fn a_circle_is_found_through_re_exports_and_parents() {
    let sources = |files: &[(&str, &str)]| -> Sources {
        let module = |path: &str| path.split("::").map(str::to_owned).collect();
        files
            .iter()
            .map(|(path, text)| (module(path), (*text).to_owned()))
            .collect()
    };
    let line = sources(&[
        ("a", "use crate::b::B;"),
        ("b", "mod c;\npub use c::{B, D};"),
        ("b::c", "// use crate::a::A;\nuse std::io;"),
    ]);
    assert_eq!(circle(&imports(&line)), None);
    let through_a_re_export = sources(&[
        ("a", "use crate::b::B;"),
        ("b", "mod c;\npub use c::{B, D};"),
        ("b::c", "use crate::{\n    x,\n    a::{A, E},\n};"),
    ]);
    assert_eq!(
        circle(&imports(&through_a_re_export)),
        Some(vec!["a".into(), "b::c".into()])
    );
    let through_a_parent = sources(&[("a", "mod b;\nuse b::B;\nstruct A;"), ("a::b", "fn f(a: super::A) {}")]);
    assert_eq!(
        circle(&imports(&through_a_parent)),
        Some(vec!["a".into(), "a::b".into()])
    );
}

/// Reads the files of a folder that are built into the crate's library or its main program. Files of tests are left out.
fn read(folder: &Path, module: &mut Module, sources: &mut Sources) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if ["tests", "model", "bin"].contains(&name.as_str()) {
            continue;
        }
        let is_root = module.is_empty() && ["lib", "main"].contains(&name.as_str());
        let depth = module.len();
        if !is_root {
            module.push(name);
        }
        if path.is_dir() {
            read(&path, module, sources);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source");
            let own = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            sources.insert(module.clone(), own.to_owned());
        }
        module.truncate(depth);
    }
}

/// The files that each file imports.
fn imports(sources: &Sources) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut exported: BTreeMap<Module, Module> = BTreeMap::new();
    let mut paths: Vec<(&Module, Vec<String>)> = Vec::new();
    for (module, text) in sources {
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let code = lines.collect::<Vec<_>>().join(" ");
        paths.extend(paths_in(&code).into_iter().map(|path| (module, path)));
        for (is_public, path) in uses(&code) {
            let child = join(module, &path[..1]);
            if is_public && sources.contains_key(&child) && path.len() > 1 {
                exported.insert(join(module, &path[path.len() - 1..]), child);
            } else if !is_public {
                paths.push((module, path));
            }
        }
    }
    let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, path) in paths {
        let target = resolve(module, &path, sources, &exported);
        if let Some(target) = target.filter(|target| target != module) {
            imports.entry(module.clone()).or_default().insert(target);
        }
    }
    imports
}

/// The paths that `use` declarations name, each with whether the declaration is public.
fn uses(code: &str) -> Vec<(bool, Vec<String>)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let words: Vec<&str> = statement.split_whitespace().collect();
        let Some(at) = words.iter().rposition(|word| *word == "use") else {
            continue;
        };
        let is_public = at > 0 && words[at - 1].starts_with("pub");
        let tree = words[at + 1..].join(" ");
        found.extend(expand(&tree).into_iter().map(|path| (is_public, path)));
    }
    found
}

/// The paths of a tree such as `a::{b, c::{d, e}}`.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        let segments = name.split("::").map(|segment| segment.trim().to_owned());
        return vec![segments.filter(|segment| !segment.is_empty()).collect()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut depth = 0;
    let branches = inner.split(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    let branches = branches.filter(|branch| !branch.trim().is_empty());
    branches
        .flat_map(|branch| expand(&format!("{prefix}{branch}")))
        .collect()
}

/// The paths outside of declarations that begin with `crate::` or `super::`.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let is_path = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    code.split(|character| !is_path(character))
        .filter(|word| (word.starts_with("crate::") || word.starts_with("super::")) && !word.ends_with("::"))
        .map(|word| word.split("::").map(str::to_owned).collect())
        .collect()
}

/// The file that a path, as `module` writes it, leads to. `None` if that is another crate or the crate's root.
fn resolve(module: &Module, path: &[String], sources: &Sources, exported: &BTreeMap<Module, Module>) -> Option<Module> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    let full = match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        Some("super") => join(&module[..module.len() - supers], &path[supers..]),
        Some(_) if sources.contains_key(&join(module, &path[..1])) => join(module, path),
        _ => return None,
    };
    (1..=full.len()).rev().map(|length| &full[..length]).find_map(|prefix| {
        let prefix = prefix.to_vec();
        let is_file = sources.contains_key(&prefix);
        if is_file {
            Some(prefix)
        } else {
            exported.get(&prefix).cloned()
        }
    })
}

fn join(start: &[String], end: &[String]) -> Module {
    [start, end].concat()
}

/// The first circle, as the names of its files in the order of their imports.
fn circle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    let start = |module: &Module| walk(module, imports, &mut Vec::new(), &mut done);
    let circle = imports.keys().find_map(start)?;
    Some(circle.iter().map(|module| module.join("::")).collect())
}

fn walk(
    module: &Module,
    imports: &BTreeMap<Module, BTreeSet<Module>>,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<Vec<Module>> {
    if let Some(at) = way.iter().position(|before| before == module) {
        return Some(way[at..].to_vec());
    }
    if done.contains(module) {
        return None;
    }
    way.push(module.clone());
    let targets = imports.get(module).into_iter().flatten();
    let found = targets.into_iter().find_map(|target| walk(target, imports, way, done));
    way.pop();
    done.insert(module.clone());
    found
}
