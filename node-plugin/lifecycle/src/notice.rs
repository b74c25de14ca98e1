//! Says in the log what a set lost, and that a restore stands still: nobody may be looking at the status.

use crate::report::standstill;
use crate::state::MasterRecord;
use crate::world::Snapshot;
use std::collections::BTreeMap;
use umbra_engine::RestoreStop;
use uuid::Uuid;

/// What was said of a set last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    lost: u64,
    stands: Option<RestoreStop>,
}

/// What was said already.
#[derive(Debug, Default)]
pub(crate) struct Notices(BTreeMap<Uuid, Said>);

/// Something new about a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Lost(u64),
    Stands(RestoreStop),
}

impl Notices {
    /// Looks at a master, and logs what is new.
    pub(crate) fn look(&mut self, record: &MasterRecord, snapshot: &Snapshot) {
        for (id, news) in self.news(record, snapshot) {
            let set = record.sets.iter().find(|set| set.id == id).map_or("", |set| set.name.as_str());
            match news {
                News::Lost(lost) => {
                    tracing::error!(master = %record.name, set, lost, "chunks of the image are lost: reading them is an I/O error");
                }
                News::Stands(stop) => {
                    tracing::error!(master = %record.name, set, why = standstill(stop), "a restore stands still");
                }
            }
        }
    }

    fn news(&mut self, record: &MasterRecord, snapshot: &Snapshot) -> Vec<(Uuid, News)> {
        let mut news = Vec::new();
        for set in &record.sets {
            let of = snapshot.sets.iter().find(|(index, _)| index.0 == set.index);
            let Some((_, status)) = of else { continue };
            let now = Said { lost: status.lost, stands: status.restore.and_then(|restore| restore.stands) };
            let before = self.0.insert(set.id, now).unwrap_or_default();
            if now.lost > before.lost {
                news.push((set.id, News::Lost(now.lost)));
            }
            if let Some(stop) = now.stands.filter(|_| now.stands != before.stands) {
                news.push((set.id, News::Stands(stop)));
            }
        }
        news
    }
}
