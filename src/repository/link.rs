//! Hard links: items whose content another item has.

use super::{Moment, Result, object};
use crate::format::{Attributes, FileKind, Item, ItemState};
use crate::tree::Nodes;

/// The key of the item that has a hard link's content.
pub fn first_name(item: &Item) -> Option<&[u8]> {
    match &item.attributes {
        Attributes::File(file) => match &file.kind {
            FileKind::HardLink(first) => Some(first),
            _ => None,
        },
        Attributes::Object(_) => None,
    }
}

/// The item as a file of its own: a hard link with the content of its first name. It has the state of that:
/// what could not be read under one name is not there under any.
pub fn unlinked(nodes: &dyn Nodes, moment: &Moment, item: Item) -> Result<Item> {
    let Some(first) = first_name(&item).map(<[u8]>::to_vec) else { return Ok(item) };
    let found = object(nodes, moment, &first)?.map(|(value, _)| Item::decode(&value)).transpose()?;
    Ok(found.unwrap_or(Item { state: ItemState::Unreadable, ..item }))
}
