#!/usr/bin/env bash
# From a web site to a model, in one command: serves a folder of HTML on this machine, crawls it into
# a WARC file, cleans the pages, cuts them into token shards, trains a small Llama on them and lets it
# write. Started again, every part goes on where it was left.
#
#   dev/runs/web_to_model.sh [FOLDER]     FOLDER: of HTML files, its first page index.html; without
#                                         it, Debian's package anarchism, a book of 140 pages
#   OUT=runs/web_to_model  STEPS=600  PAGES=2000      environment: where, how long, how many pages
set -euo pipefail
[ $# = 0 ] || folder=$(realpath -e "$1") || { echo "web_to_model: there is no folder $1" >&2; exit 1; }
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/web_to_model} STEPS=${STEPS:-600} PAGES=${PAGES:-2000}
mkdir -p "$OUT/pages"

make -s web train_gpt2
llmc=".venv/bin/python -m llmc"

folder=${folder:-$OUT/package/usr/share/doc/anarchism/html}
if [ ! -d "$folder" ]; then
    command -v apt-get dpkg >/dev/null || { echo "web_to_model: the package anarchism is fetched by apt-get, which is not here; give a folder of HTML files" >&2; exit 1; }
    echo "== fetching Debian's package anarchism"
    rm -rf "$OUT/deb" "$OUT/package" && mkdir "$OUT/deb"
    (cd "$OUT/deb" && apt-get -qq download anarchism) || { echo "web_to_model: apt-get could not download the package anarchism; give a folder of HTML files" >&2; exit 1; }
    dpkg -x "$OUT"/deb/*.deb "$OUT/deb/package" && mv "$OUT/deb/package" "$OUT/package"
fi

echo "== crawling $folder"
# the same port again: on another it would be another site
.venv/bin/python -u -m http.server "$(cat "$OUT/port" 2>/dev/null || echo 0)" --bind 127.0.0.1 --directory "$folder" >"$OUT/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$OUT/server.log")
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { echo "web_to_model: no server came up; $OUT/server.log says why" >&2; exit 1; }
echo "$port" >"$OUT/port"
[ -f "$OUT/pages/all" ] || {
    $llmc crawl "http://127.0.0.1:$port/" --out "$OUT/pages/site.warc.gz" --delay 0 --max_pages "$PAGES"
    touch "$OUT/pages/all"; }
kill $server

echo "== cleaning, and cutting into tokens of its own"
prepare="$llmc prepare_fineweb --source $OUT/pages/site.warc.gz --out $OUT/shards --name site --val_fraction 0.05"
if [ ! -f "$OUT/tokenizer/tokenizer.json" ]; then
    $prepare
    $llmc train_tokenizer --input "$OUT/shards/work/kept" --vocab_size 4096 --out "$OUT/tokenizer"
fi
$prepare --tokenizer "$OUT/tokenizer/tokenizer.json"

echo "== training"
run="--data $OUT/shards --preset llama-tiny --batch_size 16 --max_seq_len 256 --total_batch_size 4096 --lr 1e-3 --warmup_steps 20 --val_every 50"
if [ -d "$OUT/model" ]; then run="--resume"; fi
[ -d "$OUT/model/checkpoints/step_$(printf %08d "$STEPS")" ] ||
    ./train_gpt2 --run "$OUT/model" $run --steps "$STEPS" --checkpoint_every 50

echo "== writing"
$llmc plot "$OUT/model" --out "$OUT/loss.png"
$llmc sample "$OUT/model" --prompt "The" --max_tokens 80 --n 2
echo "== $OUT/shards/report.html, $OUT/loss.png"
