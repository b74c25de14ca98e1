//! x
use umbra_sim::{life::Life, plan::Plan};
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    for seed in args[0]..args[1] {
        let mut life = Life::new(Plan::of(seed), args.len() > 2);
        let r = life.run();
        if args.len() > 2 { for l in life.take_trace() { println!("{l}"); } }
        if let Err(e) = r { println!("seed {seed}: {e}"); }
    }
}
