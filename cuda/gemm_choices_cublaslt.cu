/* gemm_choices_cublaslt.cu -- see gemm_choices.cuh. A line: a product's key, a tab, and eight numbers of 16 digits. */
#include "gemm_choices.cuh"

#include <cctype>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sys/stat.h>
#include <unistd.h>

/* The folder, made if need be; empty if there is none. */
static std::string cache_folder()
{
    const char *named = getenv("LLMC_CACHE"), *home = getenv("HOME");
    if (!(named && *named) && !(home && *home)) return "";
    const std::string folder = named && *named ? named : std::string(home) + "/.cache/llmc";
    for (size_t end = folder.find('/', 1); end != std::string::npos; end = folder.find('/', end + 1))
        mkdir(folder.substr(0, end).c_str(), 0777);
    mkdir(folder.c_str(), 0777);
    return folder;
}

static bool read_line(const std::string &line, std::string *key, Choice *choice)
{
    const size_t tab = line.find('\t');
    if (tab == std::string::npos || line.size() != tab + std::size(choice->words) * 17) return false;
    *key = line.substr(0, tab);
    *choice = {};
    const char *at = line.c_str() + tab;
    for (uint64_t &word : choice->words) {
        int used = 0;
        if (sscanf(at, " %16" SCNx64 "%n", &word, &used) != 1) return false;
        at += used;
    }
    choice->usable = true;
    return *at == 0;
}

Choices choices_read(const char *gpu, size_t version)
{
    Choices all;
    const std::string folder = cache_folder();
    std::string name = std::string("cublaslt-") + std::to_string(version) + "-" + gpu, line, key;
    for (char &c : name)
        if (!isalnum((unsigned char)c) && c != '-') c = '_';
    all.head = "llmc: kernels of cuBLASLt " + std::to_string(version) + " for " + gpu;
    all.path = folder.empty() ? "" : folder + "/" + name + ".txt";
    std::ifstream file(all.path);
    if (!std::getline(file, line) || line != all.head) return all;
    for (Choice choice; std::getline(file, line);)
        if (read_line(line, &key, &choice)) all.made[key] = choice;
    return all;
}

void choices_write(const Choices &all)
{
    if (all.path.empty()) return;
    const std::string beside = all.path + "." + std::to_string(getpid()) + ".tmp";
    std::ofstream file(beside);
    file << all.head << "\n";
    for (const auto &[key, choice] : all.made) {
        if (!choice.usable) continue;
        file << key;
        char word[24];
        for (size_t i = 0; i < std::size(choice.words); i++) {
            snprintf(word, sizeof word, "%c%016" PRIx64, i ? ' ' : '\t', choice.words[i]);
            file << word;
        }
        file << "\n";
    }
    file.close();
    if (!file || rename(beside.c_str(), all.path.c_str())) remove(beside.c_str());
}
