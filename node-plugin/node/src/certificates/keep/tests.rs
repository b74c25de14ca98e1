use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use umbra_facade::Life;

/// What the operator does with a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It signs it for this year.
    Signs(i32),
    /// It says no.
    Denies,
    /// It does not see it.
    Forgets,
    /// It is killed, or somebody else removes the request.
    Loses,
}

struct Told {
    authority: CertifiedIssuer<'static, KeyPair>,
    is_away: bool,
    fates: VecDeque<Fate>,
    asked: Vec<(Fate, String)>,
}

/// An operator that does as it is told.
#[derive(Clone)]
struct Fake(Arc<Mutex<Told>>);

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

impl Fake {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("no panic")
    }

    fn is_there(&self) -> Result<(), IssuingError> {
        match self.told().is_away {
            true => Err(IssuingError::Forbidden { problem: "nobody is there".into() }),
            false => Ok(()),
        }
    }
}

impl Issuing for Fake {
    async fn authorities(&mut self) -> Result<String, IssuingError> {
        self.is_there()?;
        Ok(self.told().authority.pem())
    }

    async fn ask(&mut self, pem: &str) -> Result<String, IssuingError> {
        self.is_there()?;
        let mut told = self.told();
        let fate = told.fates.pop_front().unwrap_or(Fate::Signs(4000));
        told.asked.push((fate, pem.to_owned()));
        Ok((told.asked.len() - 1).to_string())
    }

    async fn answer(&mut self, name: &str) -> Result<Answer, IssuingError> {
        self.is_there()?;
        let told = self.told();
        let (fate, pem) = &told.asked[name.parse::<usize>().expect("a number")];
        Ok(match fate {
            Fate::Denies => Answer::Refused {
                how: "Denied".into(),
                reason: "OtherNode".into(),
                message: "it runs on b".into(),
            },
            Fate::Forgets => Answer::Pending,
            Fate::Loses => return Err(IssuingError::Gone(name.to_owned())),
            Fate::Signs(year) => {
                let mut asked = CertificateSigningRequestParams::from_pem(pem).expect("a request");
                asked.params.not_before = date_time_ymd(2000, 1, 1);
                asked.params.not_after = date_time_ymd(*year, 1, 1);
                asked.params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                Answer::Issued(asked.signed_by(&told.authority).expect("a certificate").pem())
            }
        })
    }
}

struct World {
    directory: tempfile::TempDir,
    operator: Fake,
}

impl World {
    fn new(fates: &[Fate]) -> Self {
        let told = Told {
            authority: authority(),
            is_away: false,
            fates: fates.iter().copied().collect(),
            asked: vec![],
        };
        let operator = Fake(Arc::new(Mutex::new(told)));
        Self { directory: tempfile::tempdir().expect("a directory"), operator }
    }

    /// A process that begins.
    fn keeper(&self) -> Keeper<Fake> {
        let identity = "spiffe://umbra/prod/node/a".parse().expect("an identity");
        let folder = CredentialFolder::open(&self.directory.path().join("tls"), identity).expect("a folder");
        Keeper::of(folder, self.operator.clone())
    }

    fn asked(&self) -> usize {
        self.operator.told().asked.len()
    }
}

fn held(keeper: &Keeper<Fake>) -> Option<Life> {
    keeper.folder.held(SystemTime::now()).ok()
}

/// Lets it keep for so long.
async fn keeps(keeper: Keeper<Fake>, time: Duration) {
    tokio::time::timeout(time, keep(keeper)).await.expect_err("it never ends");
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_is_waited_for_and_asked_for_anew_until_it_comes() {
    let world = World::new(&[Fate::Denies, Fate::Forgets, Fate::Loses]);
    let keeper = world.keeper();
    let report = keeper.report();
    assert!(report.waits().is_some_and(|waits| waits.contains("tls.pem")), "{:?}", report.waits());
    let keeping = tokio::spawn(keep(keeper));
    for (asked, why) in
        [(1, "Denied, OtherNode: it runs on b"), (2, "was not answered"), (3, "not there any more")]
    {
        while !report.waits().is_some_and(|waits| waits.contains(why)) {
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(world.asked(), asked);
    }
    report.held().await;
    assert_eq!((report.waits(), world.asked()), (None, 4));
    let keys: std::collections::BTreeSet<String> =
        world.operator.told().asked.iter().map(|(_, pem)| pem.clone()).collect();
    assert_eq!(keys.len(), 4, "each with a key of its own");
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn what_lies_there_serves_without_anybody() {
    let world = World::new(&[]);
    keeps(world.keeper(), Duration::from_secs(1)).await;
    world.operator.told().is_away = true;
    let again = world.keeper();
    assert_eq!(again.report().waits(), None, "at once");
    let report = again.report();
    keeps(again, Duration::from_secs(3600)).await;
    assert_eq!((report.waits(), world.asked()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_in_its_last_third_is_renewed_and_serves_until_then() {
    // It began in 2000.
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let year = 1970 + i32::try_from(today.as_secs() / 31_556_952).expect("a year");
    let world = World::new(&[Fate::Signs(year + 2), Fate::Denies, Fate::Denies]);
    let keeper = world.keeper();
    let report = keeper.report();
    keeps(keeper, Duration::from_secs(8)).await;
    assert_eq!(report.waits(), None, "a refused renewal takes nothing away");
    let before = held(&world.keeper()).expect("the first");
    keeps(world.keeper(), Duration::from_secs(120)).await;
    let after = held(&world.keeper()).expect("the next");
    assert!(after.ends > before.ends && report.waits().is_none());
}

#[tokio::test(start_paused = true)]
async fn another_authority_is_taken_and_with_it_a_certificate_of_it() {
    let world = World::new(&[]);
    keeps(world.keeper(), Duration::from_secs(1)).await;
    world.operator.told().authority = authority();
    keeps(world.keeper(), LOOK_EVERY * 2).await;
    assert_eq!(world.asked(), 2);
    assert!(held(&world.keeper()).is_some());
}

#[test]
fn refusals_are_tried_again_ever_more_slowly() {
    let seconds = |count| pause_after(count, ASK_AGAIN_MAX).as_secs();
    assert_eq!((1..9).map(seconds).collect::<Vec<_>>(), [5, 10, 20, 40, 80, 160, 320, 600]);
    assert_eq!(seconds(u32::MAX), 600);
}
