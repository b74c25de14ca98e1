//! Circles between the files of one crate: those that use each other, straight or by way of others.
//!
//! Every module is looked at beside its siblings: one uses another where anything in or below it names something in
//! or below the other. What a module does with its own parent or children is its own affair; what stands under
//! `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree};

/// A module's place: the names from the root of the crate.
type Module = Vec<String>;

/// The modules of a crate, and the paths that each names, from the root.
#[derive(Default)]
pub(crate) struct Modules(BTreeMap<Module, BTreeSet<Vec<String>>>);

/// Circles, each with the names of its modules in order.
pub(crate) fn of_crate(root: &Path) -> BTreeSet<Vec<String>> {
    let mut modules = Modules::default();
    modules.read(root, &root.with_file_name(""), Vec::new());
    modules.circles()
}

impl Modules {
    /// Takes in a file and those that it declares. `folder` is where these are.
    fn read(&mut self, file: &Path, folder: &Path, module: Module) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let children = self.take(&text, module.clone());
        for child in children {
            let inner = [module.clone(), vec![child.clone()]].concat();
            let flat = folder.join(format!("{child}.rs"));
            let nested = folder.join(&child).join("mod.rs");
            self.read(if flat.is_file() { &flat } else { &nested }, &folder.join(&child), inner);
        }
    }

    /// Takes in a module's text; returns the modules that it declares in files of their own.
    pub(crate) fn take(&mut self, text: &str, module: Module) -> Vec<String> {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        let mut seen = Names { module: module.clone(), named: BTreeSet::new(), children: Vec::new() };
        seen.visit_file(&parsed);
        self.0.insert(module, seen.named);
        seen.children
    }

    pub(crate) fn circles(&self) -> BTreeSet<Vec<String>> {
        let parents: BTreeSet<&[String]> =
            self.0.keys().filter_map(|module| module.split_last()).map(|(_, parent)| parent).collect();
        parents.into_iter().flat_map(|parent| self.among_children_of(parent)).collect()
    }

    fn among_children_of(&self, parent: &[String]) -> Vec<Vec<String>> {
        let child_of = |path: &[String]| path.strip_prefix(parent)?.first().cloned();
        let children: BTreeSet<String> = self.0.keys().filter_map(|module| child_of(module)).collect();
        let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, named) in &self.0 {
            let Some(user) = child_of(module).and_then(|child| children.get(&child)) else { continue };
            let used = named.iter().filter_map(|path| children.get(&child_of(path)?));
            uses.entry(user).or_default().extend(used.map(String::as_str).filter(|used| used != user));
        }
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            uses.keys().map(|user| (*user, reach(&uses, user))).collect();
        let circle_of = |module: &str| {
            let back = |other: &&&str| reached.get(**other).is_some_and(|from| from.contains(module));
            reached[module].iter().filter(back).map(|name| (*name).to_owned()).collect::<Vec<String>>()
        };
        let circles: BTreeSet<Vec<String>> = uses.keys().map(|module| circle_of(module)).collect();
        let named = |circle: Vec<String>| {
            let full = |name: String| [parent, &[name]].concat().join("::");
            circle.into_iter().map(full).collect()
        };
        circles.into_iter().filter(|circle| circle.len() > 1).map(named).collect()
    }
}

/// What a module uses, straight or by way of others.
fn reach<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(next) = todo.pop() {
        todo.extend(uses.get(next).into_iter().flatten().filter(|used| reached.insert(**used)));
    }
    reached
}

/// What a file names of its own crate.
struct Names {
    module: Module,
    named: BTreeSet<Vec<String>>,
    children: Vec<String>,
}

impl Names {
    /// The path from the root of the crate, if it leads there.
    fn note(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let (mut from, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), rest),
            "self" => (self.module.clone(), rest),
            "super" => (self.module[..self.module.len().saturating_sub(1)].to_vec(), rest),
            _ => return,
        };
        while let Some((first, behind)) = rest.split_first()
            && first == "super"
        {
            from.pop();
            rest = behind;
        }
        self.named.insert([from.as_slice(), rest].concat());
    }

    fn note_use(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.note_use(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.note(&with(&name.ident)),
            UseTree::Rename(name) => self.note(&with(&name.ident)),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_use(tree, before)),
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is = |name| attribute.path().is_ident(name);
        let list = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        is("test") || (is("cfg") && list == "test")
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        match &item.content {
            None => self.children.push(item.ident.to_string()),
            Some(_) => {
                // Of the same file; what it calls `super` is the file's own.
                self.module.push(item.ident.to_string());
                visit::visit_item_mod(self, item);
                self.module.pop();
            }
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&names);
        visit::visit_path(self, path);
    }
}

#[test]
fn circles_are_found_among_siblings_only() {
    let circles = |files: &[(&str, &str)]| {
        let mut modules = Modules::default();
        for (module, text) in files {
            modules
                .take(text, module.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect());
        }
        modules.circles()
    };
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let straight = [("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "fn f() { crate::a::g(); }")];
    assert_eq!(circles(&straight), [of(&["a", "b"])].into());
    let one_way =
        [("", ""), ("a", "use crate::{b::{B, C}, c};"), ("b", "use super::c;"), ("c", "pub fn f() {}")];
    assert_eq!(circles(&one_way), BTreeSet::new());
    let around = [
        ("a", "use crate::b;"),
        ("b", "use super::c::{self, C as D};"),
        ("c::d", "use super::super::a::*;"),
        ("c", ""),
    ];
    assert_eq!(circles(&around), [of(&["a", "b", "c"])].into());
    // A child and its parent are one.
    let family = [("a", "mod b; pub use b::B;"), ("a::b", "use super::helper; use crate::a::C;")];
    assert_eq!(circles(&family), BTreeSet::new());
    let below = [("a", ""), ("a::b", "use super::c::C;"), ("a::c", "type B = super::b::B;")];
    assert_eq!(circles(&below), [of(&["a::b", "a::c"])].into());
    let tests = [
        ("a", "use crate::b;"),
        ("b", "#[cfg(test)] mod tests { use crate::a; } #[test] fn f() { crate::a::g() }"),
    ];
    assert_eq!(circles(&tests), BTreeSet::new());
}
