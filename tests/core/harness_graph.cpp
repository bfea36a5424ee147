// harness_graph.cpp -- csrc/device.h: a graph of one op that copies a row of a table, and of what no graph can hold.
#include "harness.h"

#include <numeric>

#include "ops.h"

struct CloseDevice {
    void operator()(Device *d) const { device_close(d); }
};

// Row i of the table holds i.
struct Graph {
    enum { ROWS = 8, WIDTH = 4 };
    std::unique_ptr<Device, CloseDevice> device;
    void *memory;
    Tensor table, out, number;
    void *graph = nullptr;
    std::string what;

    explicit Graph(const std::string &name) : device(device_open(name.c_str(), 1))
    {
        Device *d = device.get();
        memory = device_alloc(d, 1024, "a table");
        table = { memory, "table", DT_F32, 2, { ROWS, WIDTH } };
        out = { (char *)memory + 512, "out", DT_F32, 3, { 1, 1, WIDTH } };
        number = { (char *)memory + 768, "number", DT_I32, 2, { 1, 1 } };
        float rows[ROWS][WIDTH];
        for (int i = 0; i < ROWS; i++) std::fill_n(rows[i], (int)WIDTH, (float)i);
        device_upload(d, table, rows);
    }
    Graph(const Graph &) = delete;
    ~Graph()
    {
        forget();
        device_free(device.get(), memory);
    }

    void forget()
    {
        if (graph) device->backend->forget(device.get(), graph);
        graph = nullptr;
    }

    // The op; and in its midst what a graph cannot hold.
    static void run(void *context)
    {
        Graph *g = (Graph *)context;
        Device *d = g->device.get();
        int32_t host = 0;
        embed_forward(d, g->out, g->number, g->number, g->table, none());
        if (g->what == "upload") device_upload(d, g->number, &host);
        if (g->what == "download") device_download(d, &host, g->number);
        if (g->what == "memory") device_alloc(d, 16, "more");
        if (g->what == "workspace") device_reserve(d, d->workspace_size + 16);
        if (g->what == "wait") d->backend->synchronize(d);
        if (g->what == "recording") d->backend->record(d, run, g);
        if (g->what == "collective") d->backend->reduce_scatter(d, nullptr, nullptr, 0);
    }

    void record(const std::string &with)
    {
        forget();
        what = with;
        graph = device->backend->record(device.get(), run, this);
    }

    float replay(int32_t row)
    {
        float found[WIDTH];
        device_upload(device.get(), number, &row);
        device->backend->replay(device.get(), graph);
        device_download(device.get(), found, out);
        return std::accumulate(found, found + WIDTH, 0.0f) / WIDTH;
    }
};

SECTION(graph)
{
    py::class_<Graph>(m, "Graph")
        .def(py::init<const std::string &>(), py::arg("device"))
        .def("record", &Graph::record, py::arg("what"))
        .def("replay", &Graph::replay, py::arg("row"));
}
